//! docs/http-api.md says what the code does: its error codes, routes, examples and the signed
//! request in it are compared with the code and the golden files.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use golem_vm_protocol::route::Service;
use golem_vm_protocol::{ErrorCode, route};
use serde_json::Value;

/// The page; `None` where there are no docs beside the crate, as when it is published.
fn page() -> Option<String> {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    if !docs.is_dir() {
        eprintln!("{} is not there: a published crate has nothing to compare with", docs.display());
        return None;
    }
    Some(std::fs::read_to_string(docs.join("http-api.md")).unwrap())
}

fn golden(name: &str) -> Value {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    let text = std::fs::read_to_string(&path);
    serde_json::from_str(&text.unwrap_or_else(|error| panic!("{}: {error}", path.display())))
        .unwrap()
}

/// What stands between two marks.
fn between<'a>(text: &'a str, begin: &str, end: &str) -> &'a str {
    let (_, rest) = text.split_once(begin).unwrap_or_else(|| panic!("no {begin}"));
    rest.split_once(end).unwrap_or_else(|| panic!("no {end} behind {begin}")).0
}

#[test]
fn every_error_code_is_listed_with_its_status() {
    let Some(page) = page() else { return };
    let table = between(&page, "<!-- error-codes -->", "<!-- end -->");
    let rows = table.lines().filter_map(|line| line.strip_prefix("| `"));
    let listed: Vec<(String, u16)> = rows
        .map(|row| {
            let mut columns = row.split(" | ");
            let code = columns.next().unwrap().trim_end_matches('`').to_owned();
            let status = columns.next().unwrap().parse().unwrap();
            assert!(
                columns.next().is_some_and(|meaning| meaning.len() > 10),
                "{code} says nothing"
            );
            (code, status)
        })
        .collect();
    let known: Vec<(String, u16)> =
        ErrorCode::ALL.iter().map(|code| (code.to_string(), code.status())).collect();
    assert_eq!(listed, known);
}

/// Each route has its row under "Who may call what", and its own section or table row.
#[test]
fn every_route_is_listed_with_whom_it_serves() {
    let Some(page) = page() else { return };
    let table = between(&page, "<!-- routes -->", "<!-- end -->");
    let listed: Vec<&str> =
        table.lines().filter(|line| line.starts_with("| ") && line.contains('`')).collect();
    let expected: Vec<String> = route::ROUTES
        .iter()
        .map(|route| {
            let service = match route.service {
                Service::Discovery => "discovery",
                Service::PortChecker => "port checker",
                Service::Provider => "provider",
                Service::ControlSocket => "provider, control socket",
            };
            format!(
                "| {service} | `{} {}` | {} |",
                route.method,
                route.pattern,
                route.caller.as_str()
            )
        })
        .collect();
    assert_eq!(
        listed,
        expected,
        "docs/http-api.md should have these rows:\n{}",
        expected.join("\n")
    );
    for route in route::ROUTES {
        let described = format!("{} {}`", route.method, route.pattern);
        assert!(
            page.matches(&described).count() > 1,
            "{} {} is not described in docs/http-api.md",
            route.method,
            route.pattern
        );
    }
}

/// A block of JSON behind `<!-- golden:FILE -->` says the same as that golden file.
#[test]
fn examples_are_the_golden_files() {
    let Some(page) = page() else { return };
    let mut count = 0;
    for part in page.split("<!-- golden:").skip(1) {
        let (name, rest) = part.split_once(" -->").unwrap();
        let shown = between(rest, "```json\n", "```");
        let shown: Value = serde_json::from_str(shown).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(shown, golden(name), "{name}");
        count += 1;
    }
    assert!(count >= 8, "only {count} examples were found");
}

/// The request and the reply that are shown, header by header, are the ones of a test vector,
/// whose signatures other tests verify.
#[test]
fn the_signed_example_is_a_test_vector() {
    let Some(page) = page() else { return };
    let vector = &golden("vectors/signature.json")[1];
    for (message, mark) in
        [("request", "<!-- signed-request -->"), ("reply", "<!-- signed-reply -->")]
    {
        let shown = between(between(&page, mark, "<!-- end -->"), "```http\n", "```");
        let (head, body) = shown.split_once("\n\n").unwrap();
        let vector = &vector[message];
        assert_eq!(body.trim_end(), vector["body"].as_str().unwrap());
        for header in vector["headers"].as_array().unwrap() {
            let (name, value) = (header[0].as_str().unwrap(), header[1].as_str().unwrap());
            let found = head
                .lines()
                .filter_map(|line| line.split_once(": "))
                .any(|(shown, text)| shown.eq_ignore_ascii_case(name) && text == value);
            assert!(found, "{name}: {value} is not in the {message}");
        }
        let first = head.lines().next().unwrap();
        let expected = match message {
            "request" => format!(
                "{} {} HTTP/1.1",
                vector["method"].as_str().unwrap(),
                vector["target"].as_str().unwrap()
            ),
            _ => "HTTP/1.1 202 Accepted".to_owned(),
        };
        assert_eq!(first, expected);
    }
}
