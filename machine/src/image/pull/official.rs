//! The distributions' own servers, and how their lists are trusted.

use std::time::Duration;

use super::checksum::Checksum;
use super::signature::{self, Keys};
use super::{ImageError, ImageStore};

/// Largest list or signature, in bytes.
const MOST_LIST: usize = 1 << 20;
/// How long one of them may take.
const DEADLINE: Duration = Duration::from_secs(60);

/// Keys of Canonical's cloud images: `D2EB44626FDDC30B513D5BB71A5D6C4C7DB87C81`, "UEC Image Automatic Signing Key".
const UBUNTU: &[u8] = include_bytes!("../keys/ubuntu-cloud-images.gpg");

/// A server with images in directories, each with a signed list of checksums.
#[derive(Debug, Clone)]
pub struct Origin {
    /// What the image that is fetched by name is called.
    pub name: String,
    /// All that is below this address is the distribution's (ends with `/`).
    pub root: String,
    /// The image that is fetched by name, below `root`.
    pub path: String,
    /// The name of the list beside an image.
    pub list: String,
    /// The names that its signature may have.
    pub signatures: Vec<String>,
    /// What it has to be signed with.
    pub keys: Keys,
}

/// Both distributions' servers.
pub(super) fn all() -> Vec<Origin> {
    vec![
        Origin {
            name: "debian-12".to_owned(),
            root: "https://cloud.debian.org/images/cloud/".to_owned(),
            path: "bookworm/latest/debian-12-genericcloud-amd64.qcow2".to_owned(),
            list: "SHA512SUMS".to_owned(),
            signatures: vec!["SHA512SUMS.sign".to_owned(), "SHA512SUMS.gpg".to_owned()],
            keys: Keys::Installed {
                file: "/usr/share/keyrings/debian-role-keys.gpg".into(),
                package: "debian-keyring",
            },
        },
        Origin {
            name: "ubuntu-24.04".to_owned(),
            root: "https://cloud-images.ubuntu.com/".to_owned(),
            path: "noble/current/noble-server-cloudimg-amd64.img".to_owned(),
            list: "SHA256SUMS".to_owned(),
            signatures: vec!["SHA256SUMS.gpg".to_owned()],
            keys: Keys::Known(UBUNTU.to_owned()),
        },
    ]
}

impl Origin {
    /// The address of the image that is fetched by name.
    #[must_use]
    pub fn url(&self) -> String {
        format!("{}{}", self.root, self.path)
    }

    /// Itself and the name of the file, if the address is below its root.
    pub(super) fn covers(&self, url: &str) -> Option<(&Self, String)> {
        let below = url.strip_prefix(&self.root)?;
        let file = below.rsplit('/').next().unwrap_or(below);
        let plain =
            !below.contains(['?', '#', '%', '\\']) && !below.split('/').any(|part| part == "..");
        (plain && !file.is_empty()).then(|| (self, file.to_owned()))
    }

    /// The address of the list beside a file.
    pub(super) fn list_url(&self, url: &str) -> String {
        beside(url, &self.list)
    }

    /// The checksum that the list beside the file has for it.
    pub(super) async fn checksum(
        &self,
        client: &reqwest::Client,
        url: &str,
        file: &str,
        store: &ImageStore,
    ) -> Result<Checksum, ImageError> {
        let list_url = self.list_url(url);
        let list = small(client, &list_url).await?.ok_or_else(|| ImageError::Server {
            url: list_url.clone(),
            said: "there is no such list".to_owned(),
        })?;
        let text = String::from_utf8_lossy(&list).into_owned();
        let listed = Checksum::in_list(&text, file);
        let Some(signature) = self.signature(client, url).await? else {
            return Err(ImageError::Unsigned {
                list: list_url,
                said: listed.map_or_else(String::new, |sum| said(&sum)),
            });
        };
        signature::verify(&list, &signature, &self.keys, &list_url, store).await?;
        listed.ok_or_else(|| ImageError::NotListed { list: list_url, file: file.to_owned() })
    }

    async fn signature(
        &self,
        client: &reqwest::Client,
        url: &str,
    ) -> Result<Option<Vec<u8>>, ImageError> {
        for name in &self.signatures {
            if let Some(found) = small(client, &beside(url, name)).await? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }
}

/// How the owner would pin what an unsigned list says.
fn said(sum: &Checksum) -> String {
    let text = sum.to_string();
    let (kind, hex) = text.split_once(':').unwrap_or(("sha256", &text));
    format!(" (it says --{kind} {hex}, which anybody on the way could have written)")
}

fn beside(url: &str, name: &str) -> String {
    let directory = url.rsplit_once('/').map_or(url, |(directory, _)| directory);
    format!("{directory}/{name}")
}

/// Fetches something small; `None` when the server says that there is no such file.
async fn small(client: &reqwest::Client, url: &str) -> Result<Option<Vec<u8>>, ImageError> {
    let failed = |error: reqwest::Error| ImageError::Server {
        url: url.to_owned(),
        said: super::download::reason(&error),
    };
    let mut response = client.get(url).timeout(DEADLINE).send().await.map_err(failed)?;
    if response.status() == reqwest::StatusCode::NOT_FOUND {
        return Ok(None);
    }
    if !response.status().is_success() {
        let said = format!("it answers {}", response.status());
        return Err(ImageError::Server { url: url.to_owned(), said });
    }
    let mut content = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        content.extend_from_slice(&chunk);
        if content.len() > MOST_LIST {
            let said =
                format!("it sends more than {MOST_LIST} bytes, which is too much for a list");
            return Err(ImageError::Server { url: url.to_owned(), said });
        }
    }
    Ok(Some(content))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_below_a_root_is_covered_and_nothing_else() {
        let all = all();
        let ubuntu = &all[1];
        let (_, file) = ubuntu.covers(&ubuntu.url()).unwrap();
        assert_eq!(file, "noble-server-cloudimg-amd64.img");
        let list = "https://cloud-images.ubuntu.com/noble/current/SHA256SUMS";
        assert_eq!(ubuntu.list_url(&ubuntu.url()), list);
        for other in [
            "https://cloud-images.ubuntu.com.example/noble/x.img",
            "http://cloud-images.ubuntu.com/noble/x.img",
            "https://cloud-images.ubuntu.com/noble/../x.img",
            "https://cloud-images.ubuntu.com/noble/x.img?y",
            "https://cloud-images.ubuntu.com/noble/",
        ] {
            assert!(ubuntu.covers(other).is_none(), "{other}");
        }
    }
}
