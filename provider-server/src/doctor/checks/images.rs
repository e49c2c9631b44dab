//! What VMs boot from.

use crate::control::messages::Check;
use crate::doctor::Facts;
use crate::images::ImageInfo;

pub(in crate::doctor) fn images(facts: &Facts) -> Check {
    const SUBJECT: &str = "images";
    let images = match &facts.images {
        Ok(images) => images,
        Err(reason) => {
            return Check::warning(
                SUBJECT,
                format!("the images could not be listed: {reason}"),
                "put that right, and run 'golem-provider doctor' again",
            );
        }
    };
    let offered: Vec<&ImageInfo> = images.iter().filter(|image| image.offered).collect();
    if offered.is_empty() {
        let (found, remedy) = if images.is_empty() {
            ("there is no image, so nothing can be rented".to_owned(), build_remedy(facts))
        } else {
            let names: Vec<_> = images.iter().map(|image| image.row.name.as_str()).collect();
            (
                format!("none of the images ({}) can be rented", names.join(", ")),
                "name those that may be in GOLEM_PROVIDER_IMAGES, or unset it to rent out all that \
                 were built here"
                    .to_owned(),
            )
        };
        return Check::bad(SUBJECT, found, remedy);
    }
    // Of a backend that does not answer every image looks lost; that is said once, by its own check.
    let is_lost = |image: &&&ImageInfo| {
        image.details.size_bytes.is_none() && facts.answers(image.row.backend)
    };
    if let Some(lost) = offered.iter().find(is_lost) {
        let (name, kind) = (&lost.row.name, lost.row.backend);
        let again = if lost.row.built {
            format!("'golem-provider image build {name} --backend {kind}'")
        } else {
            format!(
                "'golem-provider image rm {name} --backend {kind}' and 'golem-provider image pull'"
            )
        };
        return Check::bad(
            SUBJECT,
            format!("the image {name} is no longer on the backend {kind}"),
            format!("make it again with {again}"),
        );
    }
    let several = facts.used().len() > 1;
    if let Some(bare) = facts
        .used()
        .into_iter()
        .find(|one| one.found.is_ok() && !offered.iter().any(|image| image.row.backend == one.kind))
    {
        return Check::warning(
            SUBJECT,
            format!(
                "the backend {} has no image that can be rented, so it rents out nothing",
                bare.kind
            ),
            format!("{} --backend {}", build_remedy(facts).trim_end_matches('\''), bare.kind) + "'",
        );
    }
    let names: Vec<_> = offered.iter().map(|image| image.row.name.as_str()).collect();
    let shown = |image: &&ImageInfo| match several {
        true => format!("{} ({})", image.row.name, image.row.backend),
        false => image.row.name.clone(),
    };
    let list = offered.iter().map(shown).collect::<Vec<_>>().join(", ");
    let default = crate::images::canonical(&facts.default_image);
    if names.contains(&default.as_str()) {
        return Check::good(SUBJECT, format!("for rent: {list}; {default} by default"));
    }
    Check::warning(
        SUBJECT,
        format!("for rent: {list}; the default image {default} is not among them"),
        format!(
            "build it ('golem-provider image build {default}'), or set GOLEM_PROVIDER_DEFAULT_IMAGE"
        ),
    )
}

fn build_remedy(facts: &Facts) -> String {
    let name = crate::images::canonical(&facts.default_image);
    let known = matches!(name.as_str(), "debian-12" | "ubuntu-24.04");
    let name = if known { name.as_str() } else { "debian-12" };
    format!("run 'golem-provider image build {name}'")
}
