//! Which SSH keys a VM has after a change. Pure.

use golem_vm_protocol::problem::FieldError;
use golem_vm_protocol::vm::{MAX_SSH_KEYS, SshPublicKey, ValidKeyChange};

use super::VmError;

/// The keys after `change`: first those that go are taken out, then those that are new are added.
/// A key counts once, whatever its comment.
///
/// # Errors
/// [`VmError::LastKey`] when none would be left and that was not forced, [`VmError::Invalid`] when
/// there would be too many.
pub fn changed(
    keys: &[SshPublicKey],
    change: &ValidKeyChange,
) -> Result<Vec<SshPublicKey>, VmError> {
    let mut left: Vec<SshPublicKey> =
        keys.iter().filter(|key| !change.remove.contains(&key.fingerprint())).cloned().collect();
    for new in &change.add {
        if !left.iter().any(|key| key.without_comment() == new.without_comment()) {
            left.push(new.clone());
        }
    }
    if left.is_empty() && !change.force {
        return Err(VmError::LastKey);
    }
    if left.len() > MAX_SSH_KEYS {
        return Err(VmError::Invalid(vec![FieldError::new(
            "/add",
            format!("a VM has at most {MAX_SSH_KEYS} keys, and this would make {}", left.len()),
        )]));
    }
    Ok(left)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::vm::host_key::HostKey;

    fn change(add: &[&SshPublicKey], remove: &[&SshPublicKey], force: bool) -> ValidKeyChange {
        ValidKeyChange {
            add: add.iter().map(|key| (*key).clone()).collect(),
            remove: remove.iter().map(|key| key.fingerprint()).collect(),
            force,
        }
    }

    #[test]
    fn keys_come_and_go_once_and_the_last_one_only_by_force() {
        let [one, two] = [(), ()].map(|()| HostKey::generate().unwrap().public);
        let has = std::slice::from_ref(&one);
        let both = changed(has, &change(&[&two, &two, &one], &[], false)).unwrap();
        assert_eq!(both, [one.clone(), two.clone()]);
        assert_eq!(
            changed(&both, &change(&[], &[&one], false)).unwrap(),
            std::slice::from_ref(&two)
        );
        // In place of the last one another.
        assert_eq!(
            changed(has, &change(&[&two], &[&one], false)).unwrap(),
            std::slice::from_ref(&two)
        );
        // One that is not there.
        assert_eq!(changed(has, &change(&[], &[&two], false)).unwrap(), has);
        assert!(matches!(changed(has, &change(&[], &[&one], false)), Err(VmError::LastKey)));
        assert_eq!(changed(has, &change(&[], &[&one], true)).unwrap(), []);
        let many: Vec<_> = (0..16).map(|_| HostKey::generate().unwrap().public).collect();
        let more = changed(has, &change(&many.iter().collect::<Vec<_>>(), &[], false));
        assert!(matches!(more, Err(VmError::Invalid(_))));
    }
}
