//! Which of somebody's settings stand, beside those that every machine has.

use super::node::{Content, Node};
use super::{Place, UserDataError};

/// Somebody's settings, sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Settings {
    /// What is passed on as it is.
    rest: Vec<(String, Node)>,
    /// For the user that every machine has.
    user: Vec<(String, Node)>,
    /// Other users.
    users: Vec<Node>,
    bootcmd: Vec<Node>,
}

/// Settings that are the provider's, and why. With the value that says the same as ours, if there is one.
const OURS: &[(&str, Option<bool>, &str)] = &[
    ("allow_public_ssh_keys", Some(true), KEYS),
    ("allow_userdata", Some(true), WORKS),
    ("chpasswd", None, PASSWORDS),
    ("cloud_config_modules", None, WORKS),
    ("cloud_final_modules", None, WORKS),
    ("cloud_init_modules", None, WORKS),
    ("datasource", None, WORKS),
    ("datasource_list", None, WORKS),
    ("disable_root", Some(true), KEYS),
    ("disable_root_opts", None, KEYS),
    ("fqdn", None, NAME),
    ("growpart", None, GROWS),
    ("hostname", None, NAME),
    ("manage_etc_hosts", Some(true), NAME),
    ("merge_how", None, WORKS),
    ("merge_type", None, WORKS),
    ("network", None, NETWORK),
    ("password", None, PASSWORDS),
    ("prefer_fqdn_over_hostname", None, NAME),
    ("preserve_hostname", Some(false), NAME),
    ("random_seed", None, "every VM has a seed of its own"),
    ("resize_rootfs", Some(true), GROWS),
    ("ssh", None, HOST_KEY),
    ("ssh_deletekeys", Some(true), HOST_KEY),
    ("ssh_genkeytypes", None, HOST_KEY),
    ("ssh_key_types", None, HOST_KEY),
    ("ssh_keys", None, HOST_KEY),
    ("ssh_pwauth", Some(false), PASSWORDS),
    ("system_info", None, WORKS),
    ("unverified_modules", None, WORKS),
    ("user", None, "the first user is ubuntu; list others under 'users'"),
    ("vendor_data", None, WORKS),
];

const KEYS: &str = "logins are as ubuntu, by key";
const PASSWORDS: &str = "VMs have no passwords: add keys";
const NAME: &str = "the VM has the name that it was created with";
const HOST_KEY: &str = "the VM has the host key that the provider signed for";
const GROWS: &str = "the root file system always has the rented size";
const NETWORK: &str = "the network is the provider's";
const WORKS: &str = "the VM is set up by it";

/// Settings of the user `ubuntu` that are added to ours.
const OF_USER: &[&str] = &["gecos", "groups", "ssh_authorized_keys", "ssh_import_id"];

/// Settings of users that no VM has.
const PASSWORDS_OF_USERS: &[&str] =
    &["passwd", "hashed_passwd", "plain_text_passwd", "lock_passwd", "lock-passwd", "chpasswd"];

/// Settings that are lists, and what their items have to be.
const LISTS: &[(&str, Items)] = &[
    ("bootcmd", Items::Commands),
    ("runcmd", Items::Commands),
    ("write_files", Items::Files),
    ("ssh_authorized_keys", Items::Texts),
    ("ssh_import_id", Items::Texts),
    ("packages", Items::Any),
    ("mounts", Items::Any),
];

#[derive(Clone, Copy)]
enum Items {
    Commands,
    Files,
    Texts,
    Any,
}

impl Settings {
    /// A script that is run once, at the end of the first boot.
    pub(super) fn script(text: &str) -> Self {
        let file = serde_json::json!([{
            "path": "/var/lib/cloud/scripts/per-instance/user-data",
            "permissions": "0755",
            "content": text,
        }]);
        Self { rest: vec![("write_files".to_owned(), file.into())], ..Self::default() }
    }

    /// Sorts a cloud-config; what has no effect is told in `notes`.
    pub(super) fn read(document: Node, notes: &mut Vec<String>) -> Result<Self, UserDataError> {
        let place = document.place;
        let entries = match document.content {
            Content::Map(entries) => entries,
            _ if document.is_null() => Vec::new(),
            _ => {
                return Err(UserDataError::new(
                    place,
                    "a cloud-config is settings: lines like 'packages: [git]'",
                ));
            }
        };
        let mut settings = Self::default();
        for (key, value) in entries {
            if let Some((_, kind)) = LISTS.iter().find(|(name, _)| *name == key) {
                check(&key, &value, *kind)?;
            }
            if let Some((_, same, why)) = OURS.iter().find(|(name, ..)| *name == key) {
                if same.is_none() || value.truth() != *same {
                    let line = value.place.line;
                    notes.push(format!("line {line}: '{key}' has no effect: {why}"));
                }
                continue;
            }
            match (key.as_str(), value.content) {
                ("users", content) => settings.users(Node::new(value.place, content), notes)?,
                ("bootcmd", Content::List(items)) => settings.bootcmd = items,
                ("ssh_authorized_keys" | "ssh_import_id", content) => {
                    settings.user.push((key, Node::new(value.place, content)));
                }
                (_, content) => settings.rest.push((key, Node::new(value.place, content))),
            }
        }
        Ok(settings)
    }

    fn users(&mut self, users: Node, notes: &mut Vec<String>) -> Result<(), UserDataError> {
        let place = users.place;
        let items = match users.content {
            Content::List(items) => items,
            // "default, bob"
            Content::Text(names) | Content::Word(names) => names
                .split(',')
                .map(|name| Node::new(place, Content::Text(name.trim().to_owned())))
                .collect(),
            _ => {
                return Err(UserDataError::new(
                    place,
                    "'users' is a list: lines that begin with '- name:'",
                ));
            }
        };
        for item in items {
            let place = item.place;
            let entries = match item.content {
                Content::Map(entries) => entries,
                Content::Text(name) | Content::Word(name) => {
                    vec![("name".to_owned(), Node::new(place, Content::Text(name)))]
                }
                _ => {
                    return Err(UserDataError::new(
                        place,
                        "a user is a name, or settings with a 'name'",
                    ));
                }
            };
            let name =
                entries.iter().find(|entry| entry.0 == "name").and_then(|entry| entry.1.text());
            let Some(name) = name.filter(|name| !name.is_empty()).map(str::to_owned) else {
                return Err(UserDataError::new(place, "this user has no 'name'"));
            };
            // The user whom an image has by itself is ours in every VM.
            if name == "default" || name == "ubuntu" {
                self.first_user(entries, notes);
            } else {
                self.users.push(other_user(place, &name, entries, notes));
            }
        }
        Ok(())
    }

    fn first_user(&mut self, entries: Vec<(String, Node)>, notes: &mut Vec<String>) {
        for (key, value) in entries {
            if OF_USER.contains(&key.as_str()) {
                self.user.push((key, value));
            } else if key != "name" {
                let line = value.place.line;
                notes.push(format!("line {line}: '{key}' of the user ubuntu has no effect: it is as the provider sets it"));
            }
        }
    }

    /// With the settings that every machine has.
    pub(super) fn merged(&self, ours: Node) -> Node {
        let Content::Map(ours) = ours.content else { return ours };
        let is_ours = |key: &str| ours.iter().any(|entry| entry.0 == key);
        let mut merged: Vec<_> =
            self.rest.iter().filter(|entry| !is_ours(&entry.0)).cloned().collect();
        for (key, value) in ours {
            let place = value.place;
            let content = match (key.as_str(), value.content) {
                ("users", Content::List(users)) => Content::List(self.all_users(users)),
                ("bootcmd", Content::List(mut commands)) => {
                    commands.extend(self.bootcmd.iter().cloned());
                    Content::List(commands)
                }
                (_, content) => content,
            };
            merged.push((key, Node::new(place, content)));
        }
        Node::new(Place::default(), Content::Map(merged))
    }

    fn all_users(&self, mut users: Vec<Node>) -> Vec<Node> {
        if let Some(Node { content: Content::Map(first), .. }) = users.first_mut() {
            for (key, value) in &self.user {
                match first.iter_mut().find(|entry| entry.0 == *key) {
                    Some((_, present)) => present.content = both(&present.content, &value.content),
                    None => first.push((key.clone(), value.clone())),
                }
            }
        }
        users.extend(self.users.iter().cloned());
        users
    }
}

/// Somebody's own user: without a password.
fn other_user(
    place: Place,
    name: &str,
    entries: Vec<(String, Node)>,
    notes: &mut Vec<String>,
) -> Node {
    let mut kept = Vec::new();
    for (key, value) in entries {
        if !PASSWORDS_OF_USERS.contains(&key.as_str()) {
            kept.push((key, value));
        } else if value.truth() != Some(true) {
            let line = value.place.line;
            notes.push(format!(
                "line {line}: '{key}' of the user {name} has no effect: {PASSWORDS}"
            ));
        }
    }
    kept.push(("lock_passwd".to_owned(), serde_json::json!(true).into()));
    Node::new(place, Content::Map(kept))
}

/// Two lists as one, and otherwise the second.
fn both(first: &Content, second: &Content) -> Content {
    let list = |content: &Content| match content {
        Content::List(items) => items.clone(),
        // "adm, sudo"
        Content::Text(words) | Content::Word(words) => words
            .split(',')
            .map(|word| Node::new(Place::default(), Content::Text(word.trim().to_owned())))
            .collect(),
        _ => Vec::new(),
    };
    if matches!(first, Content::List(_)) {
        let mut all = list(first);
        for item in list(second) {
            if !all.contains(&item) {
                all.push(item);
            }
        }
        Content::List(all)
    } else {
        second.clone()
    }
}

/// Whether a list has what cloud-init expects in it; otherwise it would skip all of it, and say so in a log only.
fn check(key: &str, value: &Node, items: Items) -> Result<(), UserDataError> {
    let Some(list) = value.list() else {
        let what = format!("'{key}' is a list: put '- ' before each item");
        return Err(UserDataError::new(value.place, what));
    };
    for item in list {
        let texts =
            |node: &Node| node.list().is_some_and(|all| all.iter().all(|one| one.text().is_some()));
        let (fits, expected) = match items {
            Items::Commands => (
                item.text().is_some() || texts(item),
                "a command, as text or as a list of words; put quotes around one that contains ': '",
            ),
            Items::Files => (
                item.get("path").is_some_and(|path| path.text().is_some()),
                "a file: settings with a 'path'",
            ),
            Items::Texts => (item.text().is_some(), "text"),
            Items::Any => (true, ""),
        };
        if !fits {
            return Err(UserDataError::new(
                item.place,
                format!("an item of '{key}' is {expected}"),
            ));
        }
    }
    Ok(())
}
