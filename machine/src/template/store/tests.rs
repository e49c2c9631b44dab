#![allow(clippy::unwrap_used)]

use super::*;
use crate::template::key::tests::{key, platform};

async fn made(
    store: &Templates,
    image: &str,
    in_use: &BTreeSet<PathBuf>,
) -> Result<Template, TemplateError> {
    let making = store.begin().await?;
    for name in [file::DISK, file::RAM, file::STATE] {
        fs::write(making.directory().join(name), vec![7; 8192]).unwrap();
    }
    making.finish(key(image), crate::template::network(), 1 << 30, in_use)
}

#[tokio::test]
async fn one_is_there_whole_or_not_at_all() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("templates");
    let none = BTreeSet::new();
    let store = Templates::open(&root, 1 << 20).unwrap();
    assert_eq!(store.find(&key("a")).unwrap(), None);
    assert!(store.are_kept() && !Templates::open(&root, 0).unwrap().are_kept());
    drop(store.begin().await.unwrap());
    assert_eq!(fs::read_dir(&root).unwrap().count(), 0);

    // A kill in the middle, with a machine that may still run.
    let making = store.begin().await.unwrap();
    fs::create_dir(making.machines()).unwrap();
    drop(making);
    assert!(root.join("making/machines").exists());
    fs::remove_dir(root.join("making/machines")).unwrap();

    let template = made(&store, "a", &none).await.unwrap();
    assert_eq!(store.find(&key("a")).unwrap().as_ref(), Some(&template));
    assert_eq!(store.find(&key("b")).unwrap(), None);
    assert!(template.is_unchanged().unwrap());
    let ram = template.directory.join(file::RAM);
    assert_eq!(fs::metadata(&ram).unwrap().permissions().mode() & 0o777, 0o444);
    fs::set_permissions(&ram, Permissions::from_mode(0o644)).unwrap();
    fs::write(&ram, vec![8; 8192]).unwrap();
    assert!(!template.is_unchanged().unwrap());
}

#[tokio::test]
async fn what_no_longer_fits_goes_but_for_disks_that_machines_need() {
    let directory = tempfile::tempdir().unwrap();
    let store = Templates::open(directory.path(), 1 << 20).unwrap();
    let none = BTreeSet::new();
    let template = made(&store, "a", &none).await.unwrap();
    let current = |key: &Key| key.is_current(&platform(), "program");
    store.tidy(&none, current).unwrap();
    assert_eq!(store.list().unwrap().len(), 1);

    let in_use = BTreeSet::from([template.directory.clone()]);
    store.tidy(&in_use, |key| key.is_current(&platform(), "mended")).unwrap();
    assert_eq!(store.find(&key("a")).unwrap(), None);
    assert!(template.directory.join(file::DISK).exists());
    assert!(!template.directory.join(file::RAM).exists());
    // Machines lie on the old disk: another one does not take its place.
    let again = made(&store, "a", &in_use).await.unwrap();
    assert_ne!(again.directory, template.directory);
    let store = Templates::open(directory.path(), 1 << 20).unwrap();
    assert!(template.directory.join(file::DISK).exists());
    store.tidy(&none, current).unwrap();
    assert!(!template.directory.exists());
    assert_eq!(store.find(&key("a")).unwrap(), Some(again));
}

#[tokio::test]
async fn the_budget_is_kept_and_what_was_used_last_stays() {
    let directory = tempfile::tempdir().unwrap();
    let none = BTreeSet::new();
    let one = {
        let store = Templates::open(&directory.path().join("one"), 1 << 20).unwrap();
        made(&store, "a", &none).await.unwrap();
        store.bytes().unwrap()
    };
    let store = Templates::open(&directory.path().join("all"), 2 * one + one / 2).unwrap();
    for image in ["a", "b"] {
        made(&store, image, &none).await.unwrap();
    }
    // Times of files may be as coarse as a tick of the kernel's clock.
    let old = SystemTime::now() - Duration::from_secs(60);
    for template in store.list().unwrap() {
        File::open(template.directory.join(MANIFEST)).unwrap().set_modified(old).unwrap();
    }
    assert!(store.find(&key("a")).unwrap().is_some());
    made(&store, "c", &none).await.unwrap();
    assert!(store.find(&key("b")).unwrap().is_none());
    assert!(store.find(&key("a")).unwrap().is_some() && store.find(&key("c")).unwrap().is_some());

    // A smaller budget holds from the next start on.
    let store = Templates::open(&directory.path().join("all"), one + one / 2).unwrap();
    store.shrink(&none).unwrap();
    assert_eq!(store.list().unwrap().len(), 1);
    let store = Templates::open(&directory.path().join("all"), 0).unwrap();
    store.shrink(&none).unwrap();
    assert_eq!(store.list().unwrap(), []);

    let small = Templates::open(&directory.path().join("small"), one / 2).unwrap();
    let error = made(&small, "a", &none).await.unwrap_err();
    assert!(matches!(error, TemplateError::Budget { .. }), "{error}");
    assert_eq!(small.bytes().unwrap(), 0);
}
