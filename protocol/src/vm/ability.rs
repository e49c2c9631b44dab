//! What can be done with a VM beside what can be done with every one.

use super::words::words;

words! {
    /// What a backend can do with its VMs that not every backend can.
    Ability {
        /// Keeping a VM's memory on its disk, and going on from there.
        Suspend = "suspend",
        /// Snapshots of a VM that is stopped.
        Snapshots = "snapshots",
        /// Snapshots of a running VM, with its memory.
        LiveSnapshots = "live_snapshots",
        /// A new VM with the disk of one that is stopped.
        Clone = "clone",
        /// A new VM with the disk of one that runs, as it is at that moment.
        LiveClone = "live_clone",
        /// Another size at the next start.
        Resize = "resize",
        /// A larger disk while the VM runs.
        LiveDiskResize = "live_disk_resize",
        /// A serial console.
        Console = "console",
        /// The requestor's own cloud-init.
        CloudInit = "cloud_init",
        /// Telling those who are logged in something.
        Notify = "notify",
        /// Changing who may log in while the VM runs.
        LiveKeys = "live_keys",
    }
}
