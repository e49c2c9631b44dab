//! Processes that outlive this one: started, proved, limited, ended.
