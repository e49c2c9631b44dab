#![allow(clippy::unwrap_used)]
use super::*;

struct Place {
    dir: tempfile::TempDir,
    own: PathBuf,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join(".ssh")).unwrap();
        let own = dir.path().join("golem/ssh");
        std::fs::create_dir(dir.path().join("golem")).unwrap();
        Self { dir, own }
    }

    fn sources(&self) -> KeySources<'_> {
        KeySources {
            ssh_dir: Some(self.dir.path().join(".ssh")),
            own_dir: &self.own,
            agent: Vec::new(),
            has_openssh: true,
            can_ask: false,
        }
    }

    /// Makes a key with ssh-keygen, so that the forms are OpenSSH's own.
    fn keygen(&self, name: &str, kind: &str, passphrase: &str) -> PathBuf {
        let path = self.dir.path().join(".ssh").join(name);
        let made = std::process::Command::new("ssh-keygen")
            .args(["-q", "-t", kind, "-N", passphrase, "-C", "me", "-f"])
            .arg(&path)
            .status()
            .unwrap();
        assert!(made.success());
        path
    }
}

#[test]
fn without_any_key_one_is_made_once() {
    let place = Place::new();
    let (key, remarks) = place.sources().default_key().unwrap();
    assert_eq!(key.identity, place.own.join("id_ed25519"));
    assert_eq!(key.usable_by, Use::File);
    assert!(remarks[0].contains("made an SSH key"));
    let (again, remarks) = place.sources().default_key().unwrap();
    assert_eq!(again, key);
    assert!(remarks.is_empty());
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        assert_eq!(std::fs::metadata(&key.identity).unwrap().mode() & 0o777, 0o600);
    }
}

#[test]
fn either_half_names_a_key() {
    let place = Place::new();
    let path = place.keygen("other", "ed25519", "");
    let by_private = place.sources().named(&path).unwrap();
    let by_public = place.sources().named(&public_path(&path)).unwrap();
    assert_eq!(by_private, by_public);
    assert_eq!(by_private.usable_by, Use::File);
    std::fs::remove_file(public_path(&path)).unwrap();
    let derived = place.sources().named(&path).unwrap();
    assert_eq!(derived.public.as_str(), by_private.public.as_str());
}

#[test]
fn keys_that_nobody_here_could_use_are_told() {
    let place = Place::new();
    let locked = place.keygen("locked", "ed25519", "secret");
    let error = place.sources().named(&locked).unwrap_err();
    assert!(error.message.contains("passphrase"), "{error}");
    let asked = KeySources { can_ask: true, ..place.sources() };
    assert_eq!(asked.named(&locked).unwrap().usable_by, Use::Passphrase);

    let public = place.sources().read(&locked).unwrap().public;
    let with_agent = KeySources { agent: vec![public], ..place.sources() };
    assert_eq!(with_agent.named(&locked).unwrap().usable_by, Use::Agent);

    let alone = public_path(&place.keygen("alone", "ed25519", ""));
    std::fs::remove_file(alone.with_extension("")).unwrap();
    assert!(place.sources().named(&alone).unwrap_err().message.contains("neither beside it"));

    let rsa = place.keygen("big", "rsa", "");
    assert_eq!(place.sources().named(&rsa).unwrap().usable_by, Use::OpenSsh);
    let bare = KeySources { has_openssh: false, ..place.sources() };
    assert!(bare.named(&rsa).unwrap_err().message.contains("needs OpenSSH"));
}

#[test]
fn the_default_is_the_first_that_can_be_used() {
    let place = Place::new();
    place.keygen("id_ed25519", "ed25519", "secret");
    let ecdsa = place.keygen("id_ecdsa", "ecdsa", "");
    let (key, remarks) = place.sources().default_key().unwrap();
    assert_eq!((key.identity, key.usable_by), (ecdsa, Use::File));
    assert!(remarks[0].contains("passphrase"), "{remarks:?}");
}

#[test]
fn a_key_of_the_agent_comes_before_a_new_one() {
    let place = Place::new();
    let path = place.keygen("elsewhere", "ed25519", "");
    let public = place.sources().read(&path).unwrap().public;
    let sources = KeySources { agent: vec![public.clone()], ..place.sources() };
    let (key, _) = sources.default_key().unwrap();
    assert_eq!((key.public, key.usable_by), (public.clone(), Use::Agent));
    let line = std::fs::read_to_string(&key.identity).unwrap();
    assert_eq!(line.trim(), public.as_str());
}

#[test]
fn wrong_files_are_told_apart() {
    let place = Place::new();
    let missing = place.sources().named(Path::new("/no/such/key")).unwrap_err();
    assert!(missing.message.contains("/no/such/key") && !missing.hints.is_empty());
    let file = place.dir.path().join("f");
    std::fs::write(&file, "hello").unwrap();
    assert!(place.sources().named(&file).unwrap_err().message.contains("can't use the key"));
    std::fs::write(&file, [0xff, 0xfe]).unwrap();
    assert!(place.sources().named(&file).unwrap_err().message.contains("not text"));
}
