//! Sections of the documentation that are made from code, between `<!-- NAME -->` and `<!-- end -->`: for the tests that
//! keep them so.

use std::path::Path;

/// The variable with which a test writes a section in place of comparing it.
const UPDATE: &str = "UPDATE_DOCS";
const END: &str = "<!-- end -->\n";

/// Compares a section of `docs/FILE`, beside the crate whose directory is given, with what the code says now; with
/// `UPDATE_DOCS=1` it is written.
///
/// # Errors
/// When it is something else, or is not there. A crate that was published has no documentation beside it: nothing is
/// compared then.
pub fn section(of_crate: &str, file: &str, name: &str, wanted: &str) -> Result<(), String> {
    let docs = Path::new(of_crate).join("../docs");
    if !docs.is_dir() {
        return Ok(());
    }
    let path = docs.join(file);
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    let text = std::fs::read_to_string(&path).map_err(failed)?;
    let missing = || format!("docs/{file} has no section '{name}', or it has no end");
    let begin = format!("<!-- {name} -->\n");
    let (before, rest) = text.split_once(&begin).ok_or_else(missing)?;
    let (section, after) = rest.split_once(END).ok_or_else(missing)?;
    let wanted = format!("\n{wanted}\n");
    if std::env::var_os(UPDATE).is_some() {
        return std::fs::write(&path, [before, &begin, &wanted, END, after].concat())
            .map_err(failed);
    }
    if section == wanted {
        return Ok(());
    }
    Err(format!("docs/{file} is out of date ({UPDATE}=1 writes it); it should say:\n{wanted}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::section;

    #[test]
    fn a_section_that_says_something_else_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let of_crate = directory.path().join("crate");
        let check = |name, wanted| section(of_crate.to_str().unwrap(), "page.md", name, wanted);
        assert_eq!(check("table", "a"), Ok(()), "nothing to compare with");
        std::fs::create_dir(&of_crate).unwrap();
        std::fs::create_dir(directory.path().join("docs")).unwrap();
        let page = "# Page\n<!-- table -->\n\na\n<!-- end -->\n";
        std::fs::write(directory.path().join("docs/page.md"), page).unwrap();
        assert_eq!(check("table", "a"), Ok(()));
        assert!(check("table", "b").unwrap_err().contains("it should say:\n\nb"));
        assert!(check("other", "a").unwrap_err().contains("no section 'other'"));
    }
}
