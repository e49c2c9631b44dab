//! The images.

use std::fmt::Write as _;

use golem_vm_protocol::text::printable;

use super::moment;
use crate::backend::ImageTemplate;
use crate::cli::table::Rows;
use crate::cli::terminal::{Style, Tone};
use crate::images::ImageInfo;

pub(super) fn show(out: &mut String, images: &[ImageInfo], style: Style) {
    if images.is_empty() {
        let advice = "no images, so nothing can be rented: 'golem-provider image build debian-12'";
        let _ = writeln!(out, "{}", style.paint(Tone::Warning, advice));
    } else {
        out.push_str(&image_table(images, style));
    }
}

/// The images as a table.
pub(in crate::cli) fn image_table(images: &[ImageInfo], style: Style) -> String {
    let headings = [
        "IMAGE",
        "BACKEND",
        "FOR RENT",
        "SIZE",
        "BOOTS IN",
        "TEMPLATES",
        "SOURCE",
        "MADE",
        "DIGEST",
    ];
    let mut rows = Rows::new(&headings, style);
    for image in images {
        let rent = if image.offered {
            ("yes".to_owned(), Some(Tone::Good))
        } else {
            ("no".to_owned(), Some(Tone::Faint))
        };
        let size = match image.details.size_bytes {
            Some(bytes) => (megabytes(bytes), None),
            None => ("gone".to_owned(), Some(Tone::Bad)),
        };
        rows.add([
            (printable(&image.row.name, 64), None),
            (image.row.backend.to_string(), None),
            rent,
            size,
            (boots_in(image), None),
            (templates(image), None),
            (source(image), None),
            (moment(image.row.created_at), None),
            (short_digest(image.row.digest.as_str()), Some(Tone::Faint)),
        ]);
    }
    rows.render()
}

/// How long it takes from power-on to an SSH server, where that means something and was measured.
fn boots_in(image: &ImageInfo) -> String {
    let millis = image.details.boot_millis;
    millis.map_or_else(|| "-".to_owned(), |millis| format!("{:.1} s", millis as f64 / 1000.0))
}

/// The sizes that are resumed and not booted, and what each takes of the disk, where the backend does such things.
fn templates(image: &ImageInfo) -> String {
    let Some(templates) = &image.details.templates else { return "-".to_owned() };
    let one = |template: &ImageTemplate| {
        let memory = template.memory_mib as f64 / 1024.0;
        format!("{} vCPU {memory} GB ({})", template.vcpus, megabytes(template.size_bytes))
    };
    match templates.as_slice() {
        [] => "none".to_owned(),
        all => format!("{}: {}", all.len(), all.iter().map(one).collect::<Vec<_>>().join(", ")),
    }
}

fn source(image: &ImageInfo) -> String {
    match &image.details.source {
        Some(source) => printable(source, 60),
        None if image.row.built => "built".to_owned(),
        None => "pulled".to_owned(),
    }
}

fn megabytes(bytes: u64) -> String {
    format!("{} MB", bytes.div_ceil(1_000_000))
}

fn short_digest(digest: &str) -> String {
    let (algorithm, digits) = digest.split_once(':').unwrap_or(("", digest));
    let short: String = printable(digits, 12).chars().take(12).collect();
    if algorithm.is_empty() { short } else { format!("{}:{short}", printable(algorithm, 12)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{BackendKind, ImageDetails, ImageDigest};
    use crate::images::ImageRow;

    fn shown(templates: Option<Vec<ImageTemplate>>) -> String {
        let row = ImageRow {
            name: "debian-12".to_owned(),
            digest: ImageDigest::new("sha256:0123456789abcdef"),
            backend: BackendKind::Qemu,
            built: true,
            created_at: golem_vm_protocol::time::Timestamp::from_unix_seconds(1_800_000_000),
        };
        let details = ImageDetails { templates, ..ImageDetails::default() };
        let image = ImageInfo { row, details, offered: true };
        image_table(&[image], Style { terminal: false, colour: false })
    }

    #[test]
    fn templates_are_counted_with_their_sizes() {
        let template = |vcpus, memory_mib| ImageTemplate {
            vcpus,
            memory_mib,
            size_bytes: 210_000_000,
            boot_millis: 61_000,
        };
        let two = shown(Some(vec![template(1, 512), template(2, 4096)]));
        assert!(two.contains(" 2: 1 vCPU 0.5 GB (210 MB), 2 vCPU 4 GB (210 MB) "), "{two}");
        assert!(shown(Some(Vec::new())).contains("  none  "));
        assert!(shown(None).contains("  -  "));
    }
}
