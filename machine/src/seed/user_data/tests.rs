#![allow(clippy::unwrap_used)]

use serde_json::json;

use super::*;

fn ours() -> Node {
    json!({
        "users": [{ "name": "ubuntu", "groups": ["adm", "sudo"], "lock_passwd": true }],
        "ssh_pwauth": false,
        "bootcmd": [["sh", "-c", "ours"]],
    })
    .into()
}

fn merged(text: &str) -> (String, Vec<String>) {
    let user_data = UserData::parse(text).unwrap();
    (user_data.merged(ours()).to_yaml(), user_data.notes().to_vec())
}

fn refused(text: &str) -> String {
    UserData::parse(text).unwrap_err().to_string()
}

#[test]
fn settings_are_passed_on_word_for_word() {
    let (merged, notes) = merged(
        "#cloud-config\n\
         package_update: yes\n\
         packages: [git, 'on', 1.10]\n\
         write_files:\n\
         - path: /etc/x\n\
         \x20 permissions: 0644\n\
         \x20 content: |\n\
         \x20   a: \"b\"\n\
         \x20   \u{fc}\u{1f600}\\n\n\
         - {path: /b, encoding: b64, content: !!binary aGk=}\n\
         timezone: ~\n\
         empty:\n",
    );
    assert!(notes.is_empty());
    let expected = "{\"package_update\": yes, \"packages\": [git, \"on\", 1.10], \
        \"write_files\": [{\"path\": \"/etc/x\", \"permissions\": 0644, \
        \"content\": \"a: \\\"b\\\"\\n\\u00FC\\U0001F600\\\\n\\n\"}, \
        {\"path\": \"/b\", \"encoding\": b64, \"content\": !!binary \"aGk=\"}], \"timezone\": ~, \"empty\": ~, ";
    assert!(merged.starts_with(expected), "{expected}\nis not the beginning of\n{merged}");
}

#[test]
fn what_a_machine_lives_by_stays() {
    let (merged, notes) = merged(
        "#cloud-config\n\
         ssh_pwauth: true\n\
         disable_root: yes\n\
         password: secret\n\
         chpasswd: {expire: false}\n\
         hostname: other\n\
         ssh_deletekeys: no\n\
         growpart: {mode: 'off'}\n\
         network: {config: disabled}\n\
         cloud_init_modules: []\n\
         bootcmd: [theirs]\n\
         users:\n\
         - default\n\
         - name: ubuntu\n\
         \x20 sudo: false\n\
         \x20 lock_passwd: false\n\
         \x20 groups: docker, sudo\n\
         \x20 ssh_authorized_keys: [a]\n\
         - name: bob\n\
         \x20 plain_text_passwd: x\n\
         \x20 uid: '2000'\n\
         ssh_authorized_keys: [b, a]\n",
    );
    for gone in
        ["secret", "expire", "other", "growpart", "disabled", "modules", "plain_text", "deletekeys"]
    {
        assert!(!merged.contains(gone), "{gone} is in {merged}");
    }
    for there in [
        "\"ssh_pwauth\": false",
        "\"bootcmd\": [[\"sh\", \"-c\", \"ours\"], theirs]",
        "\"groups\": [\"adm\", \"sudo\", \"docker\"]",
        "\"ssh_authorized_keys\": [a, b]",
        "{\"name\": bob, \"uid\": \"2000\", \"lock_passwd\": true}",
    ] {
        assert!(merged.contains(there), "{there} is not in {merged}");
    }
    let lines: Vec<_> =
        notes.iter().map(|note| note.split(" has no effect").next().unwrap()).collect();
    let expected = [
        "line 2: 'ssh_pwauth'",
        "line 4: 'password'",
        "line 5: 'chpasswd'",
        "line 6: 'hostname'",
        "line 7: 'ssh_deletekeys'",
        "line 8: 'growpart'",
        "line 9: 'network'",
        "line 10: 'cloud_init_modules'",
        "line 15: 'sudo' of the user ubuntu",
        "line 16: 'lock_passwd' of the user ubuntu",
        "line 20: 'plain_text_passwd' of the user bob",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn a_script_is_written_to_where_cloud_init_runs_it_once() {
    let (merged, notes) = merged("#!/bin/sh\necho \"hi\"\n");
    assert!(notes.is_empty());
    assert!(merged.contains("scripts/per-instance/"), "{merged}");
    assert!(merged.contains("\"content\": \"#!/bin/sh\\necho \\\"hi\\\"\\n\""), "{merged}");
}

#[test]
fn mistakes_are_told_with_their_place() {
    for (text, place, what) in [
        ("packages: [git]\n", "line 1, column 1", "#cloud-config"),
        ("## template: jinja\n#cloud-config\n", "line 1, column 1", "template"),
        ("#include\nhttp://x\n", "line 1, column 1", "fetch"),
        ("#cloud-config\npackages: [git\nx: 1\n", "line 3", "no YAML"),
        ("#cloud-config\npackages:\n\t- git\n", "line 3", "tabs"),
        ("#cloud-config\n- a\n- b\n", "line 2, column 1", "settings"),
        ("#cloud-config\nruncmd: ls\n", "line 2, column 9", "list"),
        ("#cloud-config\nruncmd:\n- echo a: b\n", "line 3, column 3", "quotes"),
        (
            "#cloud-config\nruncmd:\n- ls\npackages: [a]\nruncmd:\n- df\n",
            "line 5, column 1",
            "twice",
        ),
        ("#cloud-config\nwrite_files:\n- content: x\n", "line 3, column 3", "'path'"),
        ("#cloud-config\nusers:\n- uid: 3\n", "line 3, column 3", "'name'"),
        ("#cloud-config\nusers: {a: b}\n", "line 2", "list"),
        ("#cloud-config\na: !python/object:os.system x\n", "line 2", "tag"),
        ("#cloud-config\na: 1\n---\nb: 2\n", "line 3", "one document"),
        ("#cloud-config\na: &a [1]\nb: {<<: *a}\n", "line 3", "<<"),
        ("#cloud-config\na: \x1b[31m\n", "line 2, column 4", "U+001B"),
        ("#cloud-config\n", "line 1, column 1", "empty"),
        ("#!/bin/sh\r\nls\r\n", "line 1, column 1", "Windows"),
    ] {
        let error = refused(text);
        assert!(error.starts_with(place) && error.contains(what), "{text:?}: {error}");
    }
    assert!(refused(&format!("#!/bin/sh\n{}", "x".repeat(MAX_BYTES))).contains("bytes"));
}

#[test]
fn aliases_can_not_make_much_out_of_little() {
    let mut bomb = "#cloud-config\na0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..9 {
        let below = level - 1;
        let row = vec![format!("*a{below}"); 9].join(", ");
        bomb += &format!("a{level}: &a{level} [{row}]\n");
    }
    assert!(refused(&bomb).contains("aliases"));
    let nested = |depth| format!("#cloud-config\na: {}", "[".repeat(depth));
    assert!(refused(&nested(50)).contains("inside each other"));
    assert!(refused(&nested(30_000)).starts_with("line 2"));
    let (merged, _) = merged("#cloud-config\na: &a [1]\nb: *a\n");
    assert!(merged.contains("\"b\": [1]"));
}

#[test]
fn windows_line_ends_are_no_mistake_in_settings() {
    let (merged, _) = merged("#cloud-config\r\npackages:\r\n- git\r\n");
    assert!(merged.contains("\"packages\": [git]"), "{merged}");
}
