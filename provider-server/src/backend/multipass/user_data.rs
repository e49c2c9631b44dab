//! What cloud-init is told at an instance's first boot. Multipass reads it as YAML and writes it anew, with its own
//! SSH key and default user added: so it is plain data, without comments and templates, and has no `users`.
//! JSON is YAML.

use golem_vm_machine::seed::{UserData, UserDataError};
use golem_vm_protocol::vm::SshPublicKey;
use serde_json::json;

use crate::backend::InstanceSpec;

/// Where the keys are that may log in: a file of root's, besides the user's own one in which Multipass keeps its key.
pub(super) const KEYS: &str = "/etc/ssh/golem_authorized_keys";
/// Where sshd is told so. The first word on a subject counts for it, so it comes before cloud-init's own.
const SSHD: &str = "/etc/ssh/sshd_config.d/10-golem.conf";

/// The user data of an instance: what every one has, and the requestor's own.
///
/// # Errors
/// What is wrong with the requestor's own.
pub(super) fn compose(spec: &InstanceSpec) -> Result<String, UserDataError> {
    let mut ours = json!({
        "hostname": spec.hostname.as_str(),
        "preserve_hostname": false,
        "manage_etc_hosts": true,
        "ssh_pwauth": false,
        "disable_root": true,
        "growpart": { "mode": "auto", "devices": ["/"] },
        "resize_rootfs": true,
    });
    if let Some(access) = &spec.access {
        ours["ssh_deletekeys"] = json!(true);
        ours["ssh_keys"] = json!({
            "ed25519_private": access.host_key_private,
            "ed25519_public": access.host_key.as_str(),
        });
        ours["bootcmd"] = json!([["sh", "-c", boot(&access.authorized_keys)]]);
    }
    let Some(theirs) = &spec.user_data else { return Ok(format!("#cloud-config\n{ours}\n")) };
    // Without users of theirs there are none: Multipass adds the image's own, which is ubuntu.
    ours["users"] = json!([{
        "name": "ubuntu",
        "groups": ["adm", "sudo"],
        "shell": "/bin/bash",
        "sudo": "ALL=(ALL) NOPASSWD:ALL",
        "lock_passwd": true,
    }]);
    Ok(UserData::parse(theirs)?.merged_into(ours))
}

/// What every boot runs before sshd starts. At the first one it says who may log in; later that is said from outside,
/// and stays.
fn boot(keys: &[SshPublicKey]) -> String {
    let encoded = |text: &str| data_encoding::BASE64.encode(text.as_bytes());
    let sshd = format!(
        "AuthorizedKeysFile .ssh/authorized_keys {KEYS}/%u\nPasswordAuthentication no\n\
         HostKey /etc/ssh/ssh_host_ed25519_key\n"
    );
    format!(
        "umask 022; [ -e {KEYS}/ubuntu ] && exit 0; mkdir -p {KEYS} /etc/ssh/sshd_config.d; \
         echo {} | base64 -d >{SSHD}; echo {} | base64 -d >{KEYS}/ubuntu",
        encoded(&sshd),
        encoded(&lines(keys)),
    )
}

/// The text of a file of keys.
pub(super) fn lines(keys: &[SshPublicKey]) -> String {
    keys.iter().map(|key| format!("{}\n", key.as_str())).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use golem_vm_protocol::VmId;

    use super::*;
    use crate::backend::{Confinement, Egress, ImageDigest, InstanceId, Limits, SshAccess};
    use crate::vm::host_key::HostKey;

    #[test]
    fn it_says_who_it_is_and_who_may_log_in_and_leaves_multipass_its_way_in() {
        let key = HostKey::generate().unwrap();
        let mut spec = InstanceSpec {
            id: InstanceId::of(VmId::from_bytes([1; 16])),
            hostname: "box".parse().unwrap(),
            image: ImageDigest::new("multipass:24.04"),
            limits: Limits {
                cpu_millis: 1000,
                memory_mib: 1024,
                storage_mib: 10240,
                processes: 100,
                open_files: 100,
            },
            confinement: Confinement { egress: Egress::Internet },
            user_data: None,
            access: Some(SshAccess {
                host_key_private: key.private.clone(),
                host_key: key.public.clone(),
                authorized_keys: vec![key.public.clone()],
            }),
        };
        let text = compose(&spec).unwrap();
        let body = text.strip_prefix("#cloud-config\n").unwrap();
        let data: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(data["hostname"], "box");
        assert_eq!(data["ssh_keys"]["ed25519_private"], key.private);
        assert_eq!(data["ssh_pwauth"], false);
        let boot = data["bootcmd"][0][2].as_str().unwrap();
        let keys = data_encoding::BASE64.encode(format!("{}\n", key.public.as_str()).as_bytes());
        assert!(boot.contains(&keys), "{boot}");
        for its_own in ["users", "ssh_authorized_keys", "power_state", "chpasswd", "password"] {
            assert!(data.get(its_own).is_none(), "{its_own} is Multipass's, or locks it out");
        }
        assert_eq!(body.lines().count(), 1, "nothing that YAML could read otherwise");

        spec.user_data = Some(
            "#cloud-config\nhostname: other\npackages: [git]\nbootcmd: [ls]\nssh_pwauth: true\n"
                .to_owned(),
        );
        let text = compose(&spec).unwrap();
        assert!(
            text.contains("\"packages\": [\"git\"]") || text.contains("\"packages\": [git]"),
            "{text}"
        );
        assert!(text.contains("\"hostname\": \"box\"") && !text.contains("other"), "{text}");
        assert!(text.contains(&keys) && text.contains("\"ssh_pwauth\": false"), "{text}");
        assert!(text.contains("ls]"), "{text}");
        spec.user_data = Some("#cloud-config\npackages: git\n".to_owned());
        assert_eq!(compose(&spec).unwrap_err().place.line, 2);
    }
}
