//! Golden files: reading, comparing, and rewriting them on `UPDATE_GOLDEN=1`.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;

use golem_vm_protocol::time::Timestamp;
use serde::de::{DeserializeOwned, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// One directory of golden files, and which of them a test has looked at.
pub(crate) struct Goldens {
    directory: PathBuf,
    seen: BTreeSet<String>,
}

impl Goldens {
    pub(crate) fn open(name: &str) -> Self {
        let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
        Self { directory, seen: BTreeSet::new() }
    }

    fn path(&mut self, name: &str) -> PathBuf {
        let file = format!("{name}.json");
        let path = self.directory.join(&file);
        assert!(self.seen.insert(file), "{name} is used twice");
        path
    }

    /// A request of the original: it reads as `T`.
    pub(crate) fn received<T: DeserializeOwned>(&mut self, name: &str) -> T {
        let text = std::fs::read_to_string(self.path(name)).unwrap();
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    /// A reply of the original: it reads as `T`, and what `T` writes begins with the same
    /// members, in the same order, with the same values.
    pub(crate) fn captured<T: Serialize + DeserializeOwned>(&mut self, name: &str) -> T {
        let text = std::fs::read_to_string(self.path(name)).unwrap();
        let value: T = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{name}: {e}"));
        let original: Tree = serde_json::from_str(&text).unwrap();
        let written: Tree = serde_json::from_str(&serde_json::to_string(&value).unwrap()).unwrap();
        written.assert_extends(&original, name);
        value
    }

    /// What we send: it is written exactly as in its file, and reads back as the same value.
    pub(crate) fn pinned<T>(&mut self, name: &str, value: &T)
    where
        T: Serialize + DeserializeOwned + PartialEq + fmt::Debug,
    {
        let text = self.pinned_text(name, value);
        assert_eq!(&serde_json::from_str::<T>(&text).unwrap(), value, "{name} reads differently");
    }

    /// Like [`Goldens::pinned`], for what is only written.
    pub(crate) fn pinned_text<T: Serialize>(&mut self, name: &str, value: &T) -> String {
        let text = serde_json::to_string_pretty(value).unwrap() + "\n";
        let path = self.path(name);
        if std::env::var_os("UPDATE_GOLDEN").is_some_and(|value| value == "1") {
            std::fs::write(&path, &text).unwrap();
        }
        let golden = std::fs::read_to_string(&path).unwrap_or_else(|e| {
            panic!("{}: {e}; UPDATE_GOLDEN=1 writes it", path.display());
        });
        assert_eq!(text, golden, "{name} is written differently; UPDATE_GOLDEN=1 accepts that");
        text
    }

    /// No file is left over from a message that is gone.
    pub(crate) fn assert_all_seen(self) {
        let there: BTreeSet<String> = std::fs::read_dir(&self.directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        assert_eq!(there, self.seen);
    }
}

/// JSON that remembers the order of members.
#[derive(Debug, Clone, PartialEq)]
enum Tree {
    Leaf(serde_json::Value),
    List(Vec<Tree>),
    Object(Vec<(String, Tree)>),
}

/// A member whose order says nothing: an unsigned provider's prices are carried as they came.
const UNORDERED: &str = "pricing";

impl Tree {
    fn assert_extends(&self, original: &Self, place: &str) {
        match (self, original) {
            (Self::Object(ours), Self::Object(theirs)) => {
                let keys = |members: &[(String, Self)]| -> Vec<String> {
                    members.iter().take(theirs.len()).map(|(key, _)| key.clone()).collect()
                };
                let (mut mine, mut expected) = (keys(ours), keys(theirs));
                if place.ends_with(UNORDERED) {
                    mine.sort();
                    expected.sort();
                }
                assert_eq!(mine, expected, "members of {place}");
                for (key, value) in theirs {
                    let (_, own) = ours.iter().find(|(own, _)| own == key).unwrap();
                    own.assert_extends(value, &format!("{place}.{key}"));
                }
            }
            (Self::List(ours), Self::List(theirs)) => {
                assert_eq!(ours.len(), theirs.len(), "length of {place}");
                for (own, value) in ours.iter().zip(theirs) {
                    own.assert_extends(value, place);
                }
            }
            (Self::Leaf(own), Self::Leaf(value)) => {
                // `Z` and `+00:00` are the same moment.
                let moment = |leaf: &serde_json::Value| leaf.as_str()?.parse::<Timestamp>().ok();
                let same_moment = moment(own).is_some_and(|own| Some(own) == moment(value));
                assert!(same_moment || own == value, "value of {place}: {own}, not {value}");
            }
            _ => panic!("{place} has another shape"),
        }
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TreeVisitor;
        impl<'de> Visitor<'de> for TreeVisitor {
            type Value = Tree;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("JSON")
            }
            fn visit_unit<E>(self) -> Result<Tree, E> {
                Ok(Tree::Leaf(serde_json::Value::Null))
            }
            fn visit_bool<E>(self, value: bool) -> Result<Tree, E> {
                Ok(Tree::Leaf(value.into()))
            }
            fn visit_i64<E>(self, value: i64) -> Result<Tree, E> {
                Ok(Tree::Leaf(value.into()))
            }
            fn visit_u64<E>(self, value: u64) -> Result<Tree, E> {
                Ok(Tree::Leaf(value.into()))
            }
            fn visit_f64<E>(self, value: f64) -> Result<Tree, E> {
                Ok(Tree::Leaf(value.into()))
            }
            fn visit_str<E>(self, value: &str) -> Result<Tree, E> {
                Ok(Tree::Leaf(value.into()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Tree, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = list.next_element()? {
                    items.push(item);
                }
                Ok(Tree::List(items))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tree, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Tree::Object(members))
            }
        }
        deserializer.deserialize_any(TreeVisitor)
    }
}
