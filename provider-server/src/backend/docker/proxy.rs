//! The proxies through which this host reaches its mirrors: a build has to go through them as well.

use std::collections::HashMap;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

/// What apt, curl and the engine's builder know. The builder keeps them out of an image's history.
const VARIABLES: [&str; 6] =
    ["HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"];

const APT_DEADLINE: Duration = Duration::from_secs(5);

/// The proxies in this process's environment, else the one that the host's apt is set up with.
pub(super) async fn variables() -> HashMap<String, String> {
    let set = |name: &str| {
        let value = std::env::var(name).ok().filter(|value| !value.is_empty())?;
        Some((name.to_owned(), value))
    };
    let mut found: HashMap<_, _> = VARIABLES.into_iter().filter_map(set).collect();
    if found.is_empty()
        && let Some(proxy) = of_apt().await
    {
        found.insert("http_proxy".to_owned(), proxy);
    }
    found
}

async fn of_apt() -> Option<String> {
    let output = Command::new("apt-config")
        .args(["shell", "PROXY", "Acquire::http::Proxy"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(APT_DEADLINE, output).await.ok()?.ok()?;
    proxy_in(&String::from_utf8_lossy(&output.stdout))
}

/// The value in apt-config's answer (`PROXY='http://proxy:3128'`).
pub(super) fn proxy_in(answer: &str) -> Option<String> {
    let value = answer.trim().strip_prefix("PROXY='")?.strip_suffix('\'')?;
    (!value.is_empty() && value != "DIRECT" && !value.contains('\'')).then(|| value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apt_s_answer_is_read() {
        let proxy = proxy_in("PROXY='http://proxy:3128'\n");
        assert_eq!(proxy.as_deref(), Some("http://proxy:3128"));
        for none in ["", "PROXY=''", "PROXY='DIRECT'", "garbage"] {
            assert_eq!(proxy_in(none), None);
        }
    }
}
