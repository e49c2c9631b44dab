//! The person's own cloud-init: read within bounds, and told of what can't be right before anything is sent.

use std::io::Read as _;
use std::path::Path;

use golem_vm_protocol::text::printable;
use golem_vm_protocol::vm::MAX_CLOUD_INIT_BYTES;

use crate::error::{CliError, Result};

/// What a file's first line says it is. See cloudinit.readthedocs.io, "User-data formats".
const KINDS: &[&str] =
    &["#cloud-config", "#!", "#cloud-boothook", "#include", "Content-Type:", "MIME-Version:"];

/// Reads the file at `path`, or standard input where that is `-`.
pub(super) fn read(path: &Path) -> Result<String> {
    let is_stdin = path == Path::new("-");
    let name = match is_stdin {
        true => "standard input".to_owned(),
        false => path.display().to_string(),
    };
    let failed = |error: std::io::Error| {
        CliError::usage(format!("can't read the cloud-init in {name}")).because(error)
    };
    // One more than is allowed shows that there is too much.
    let most = MAX_CLOUD_INIT_BYTES as u64 + 1;
    let mut bytes = Vec::new();
    if is_stdin {
        std::io::stdin().lock().take(most).read_to_end(&mut bytes).map_err(failed)?;
    } else {
        let file = std::fs::File::open(path).map_err(failed)?;
        file.take(most).read_to_end(&mut bytes).map_err(failed)?;
    }
    checked(bytes).map_err(|why| {
        CliError::usage(format!("the cloud-init in {name} can't be used")).because(why)
    })
}

fn checked(bytes: Vec<u8>) -> Result<String, String> {
    if bytes.len() > MAX_CLOUD_INIT_BYTES {
        return Err(format!(
            "it is larger than {} KiB; have it fetch the rest from the internet",
            MAX_CLOUD_INIT_BYTES / 1024
        ));
    }
    if bytes.starts_with(&[0x1f, 0x8b]) {
        return Err("it is compressed; give the text itself".to_owned());
    }
    let text = String::from_utf8(bytes).map_err(|_| "it is no text in UTF-8".to_owned())?;
    let text = match text.strip_prefix('\u{feff}') {
        Some(rest) => rest.to_owned(),
        None => text,
    };
    if text.trim().is_empty() {
        return Err("it is empty".to_owned());
    }
    if let Some(at) = text.find(|c: char| c.is_control() && !matches!(c, '\n' | '\r' | '\t')) {
        let line = text[..at].matches('\n').count() + 1;
        return Err(format!("line {line} holds a control character"));
    }
    let first = text.lines().next().unwrap_or_default();
    let Some(kind) = KINDS.iter().find(|kind| first.starts_with(**kind)) else {
        return Err(format!(
            "its first line is '{}'; it has to say what follows: #cloud-config, or #!/bin/sh for a script",
            printable(first, 60)
        ));
    };
    if *kind == "#cloud-config" {
        yaml(&text)?;
    }
    Ok(text)
}

/// What is wrong with a text that should be YAML and plainly is not.
fn yaml(text: &str) -> Result<(), String> {
    let mut says_something = false;
    for (number, line) in text.lines().enumerate() {
        let indentation = &line[..line.len() - line.trim_start().len()];
        if indentation.contains('\t') && !line.trim().is_empty() {
            return Err(format!(
                "line {} is indented with a tab; YAML takes only spaces",
                number + 1
            ));
        }
        let bare = line.trim_end();
        says_something |= !bare.is_empty() && !bare.starts_with('#');
        // At the left margin stand keys, and the parts of a list or of a document.
        let at_margin = !bare.is_empty() && indentation.is_empty();
        if at_margin
            && !bare.starts_with(['#', '-', '{', '}', '[', ']', '.', '%'])
            && !bare.contains(':')
        {
            return Err(format!(
                "line {} is neither a key nor a part of one: '{}'",
                number + 1,
                printable(bare, 60)
            ));
        }
    }
    if says_something { Ok(()) } else { Err("nothing follows its first line".to_owned()) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_can_be_right_is_taken_as_it_is() {
        for good in [
            "#cloud-config\npackages: [git]\n",
            "#cloud-config\n# why\nruncmd:\n- echo\n-  - ls\n   - -l\n",
            "#cloud-config\r\npackages:\r\n  - git\r\n",
            "#cloud-config\nwrite_files:\n  - path: /x\n    content: |\n      a\tb\n",
            "#cloud-config\n{\"packages\": [\"git\"]}\n",
            "#!/bin/sh\necho hello\n",
            "#include\nhttp://example.org/x\n",
            "Content-Type: multipart/mixed; boundary=\"=\"\n\n",
        ] {
            assert_eq!(checked(good.as_bytes().to_vec()), Ok(good.to_owned()));
        }
        // A mark that editors leave.
        assert_eq!(checked("\u{feff}#!/bin/sh\n".into()), Ok("#!/bin/sh\n".to_owned()));
        let large = format!("#!{}", "x".repeat(MAX_CLOUD_INIT_BYTES - 2));
        assert!(checked(large.into_bytes()).is_ok());
    }

    #[test]
    fn what_can_not_be_right_is_told() {
        for (bad, words) in [
            (b"".as_slice(), "empty"),
            (b" \n\n", "empty"),
            (b"\x1f\x8b\x08\x00", "compressed"),
            (b"\xff\xfe#\0", "UTF-8"),
            (b"#!/bin/sh\n\x1b[31m", "line 2 holds a control character"),
            (b"packages: [git]\n", "its first line is 'packages: [git]'"),
            (b"# cloud-config\nx: 1\n", "its first line is '# cloud-config'"),
            (b"#cloud-config\n# only a remark\n", "nothing follows"),
            (b"#cloud-config\nruncmd:\n\t- ls\n", "line 3 is indented with a tab"),
            (b"#cloud-config\nhello\n", "line 2 is neither a key"),
        ] {
            let why = checked(bad.to_vec()).unwrap_err();
            assert!(why.contains(words), "{bad:?}: {why}");
        }
        let large = format!("#!{}", "x".repeat(MAX_CLOUD_INIT_BYTES));
        assert!(checked(large.into_bytes()).unwrap_err().contains("larger than 32 KiB"));
    }
}
