//! A YAML document to a [`Node`], within bounds.

use std::borrow::Cow;
use std::collections::HashMap;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Tag};

use super::node::{Content, Node, is_word};
use super::{Place, UserDataError};

/// How many values a document may have, those behind aliases counted each time.
const MOST_NODES: usize = 20_000;
/// How deep values may be inside each other.
const DEEPEST: usize = 40;

/// The only document in `text`.
pub(super) fn document(text: &str) -> Result<Node, UserDataError> {
    let mut builder = Builder::default();
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| {
            let what: String = error.info().chars().filter(|c| !c.is_control()).collect();
            let place = place(*error.marker());
            let tabs = text
                .lines()
                .take(place.line)
                .any(|line| line.trim_start_matches(' ').starts_with('\t'));
            let hint = if tabs { "; YAML is indented with spaces, never with tabs" } else { "" };
            UserDataError::new(place, format!("this is no YAML: {what}{hint}"))
        })?;
        builder.event(event, place(span.start))?;
    }
    builder.root.ok_or_else(|| {
        let what = "the document is empty: leave user data out, or write settings as 'key: value'";
        UserDataError::new(Place { line: 1, column: 1 }, what)
    })
}

fn place(marker: Marker) -> Place {
    Place { line: marker.line().max(1), column: marker.col() + 1 }
}

/// A list or mapping that has begun.
struct Open {
    anchor: usize,
    place: Place,
    kind: Kind,
}

enum Kind {
    List(Vec<Node>),
    Map(Vec<(String, Node)>, Option<(String, Place)>),
}

#[derive(Default)]
struct Builder {
    open: Vec<Open>,
    anchors: HashMap<usize, (Node, usize)>,
    nodes: usize,
    documents: usize,
    root: Option<Node>,
}

impl Builder {
    fn event(&mut self, event: Event<'_>, at: Place) -> Result<(), UserDataError> {
        match event {
            Event::DocumentStart(_) => {
                self.documents += 1;
                if self.documents > 1 {
                    let what = "cloud-init reads one document: remove the line '---' and what follows, or merge the two";
                    return Err(UserDataError::new(at, what));
                }
                Ok(())
            }
            Event::Scalar(text, style, anchor, tag) => {
                let node = Node::new(at, scalar(&text, style, tag.as_deref(), at)?);
                self.value(node, anchor, 1)
            }
            Event::SequenceStart(anchor, tag) => {
                self.begin(anchor, tag, "seq", at, Kind::List(Vec::new()))
            }
            Event::MappingStart(anchor, tag) => {
                self.begin(anchor, tag, "map", at, Kind::Map(Vec::new(), None))
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(open) = self.open.pop() else { return Ok(()) };
                let content = match open.kind {
                    Kind::List(items) => Content::List(items),
                    Kind::Map(entries, _) => Content::Map(entries),
                };
                self.value(Node::new(open.place, content), open.anchor, 1)
            }
            Event::Alias(anchor) => {
                let Some((node, size)) = self.anchors.get(&anchor) else {
                    return Err(UserDataError::new(at, "an alias to what is not complete there"));
                };
                let (node, size) = (Node::new(at, node.content.clone()), *size);
                self.value(node, 0, size)
            }
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
        }
    }

    fn begin(
        &mut self,
        anchor: usize,
        tag: Option<Cow<'_, Tag>>,
        usual: &str,
        place: Place,
        kind: Kind,
    ) -> Result<(), UserDataError> {
        if self.open.len() == DEEPEST {
            return Err(UserDataError::new(
                place,
                format!("more than {DEEPEST} values are inside each other here"),
            ));
        }
        if let Some(tag) = tag
            && !(tag.is_yaml_core_schema() && tag.suffix == usual)
        {
            return Err(strange_tag(&tag, place));
        }
        self.open.push(Open { anchor, place, kind });
        Ok(())
    }

    fn value(&mut self, node: Node, anchor: usize, nodes: usize) -> Result<(), UserDataError> {
        self.nodes += nodes;
        if self.nodes > MOST_NODES {
            let what = format!("more than {MOST_NODES} values, with what aliases repeat");
            return Err(UserDataError::new(node.place, what));
        }
        if anchor > 0 {
            let size = size(&node);
            self.anchors.insert(anchor, (node.clone(), size));
        }
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        match &mut open.kind {
            Kind::List(items) => items.push(node),
            Kind::Map(entries, waiting) => match waiting.take() {
                Some((key, _)) => entries.push((key, node)),
                None => {
                    let key = key(&node)?;
                    if let Some((_, first)) = entries.iter().find(|entry| entry.0 == key) {
                        let what = format!(
                            "'{key}' is there twice, first in line {}: cloud-init would take the last one only; merge them",
                            first.place.line
                        );
                        return Err(UserDataError::new(node.place, what));
                    }
                    *waiting = Some((key, node.place));
                }
            },
        }
        Ok(())
    }
}

fn key(node: &Node) -> Result<String, UserDataError> {
    match &node.content {
        Content::Word(word) if word == "<<" => None,
        Content::Text(text) if text == "<<" => None,
        Content::Text(text) | Content::Word(text) => Some(text.clone()),
        _ => None,
    }
    .filter(|key| key.len() <= 512)
    .ok_or_else(|| {
        UserDataError::new(
            node.place,
            "a name is one word or short text here, and '<<' is not taken",
        )
    })
}

fn size(node: &Node) -> usize {
    1 + match &node.content {
        Content::List(items) => items.iter().map(size).sum(),
        Content::Map(entries) => entries.iter().map(|entry| size(&entry.1)).sum(),
        _ => 0,
    }
}

fn scalar(
    text: &str,
    style: ScalarStyle,
    tag: Option<&Tag>,
    at: Place,
) -> Result<Content, UserDataError> {
    let as_text = || Content::Text(text.to_owned());
    let plain = style == ScalarStyle::Plain;
    let word = || match text {
        // Nothing at all is null.
        "" if plain => Content::Word("~".to_owned()),
        _ if plain && is_word(text) => Content::Word(text.to_owned()),
        _ => as_text(),
    };
    match tag {
        None => Ok(word()),
        Some(tag) if tag.is_yaml_core_schema() => match tag.suffix.as_str() {
            "str" => Ok(as_text()),
            "binary" => Ok(Content::Binary(text.to_owned())),
            "int" | "float" | "bool" | "null" => Ok(word()),
            _ => Err(strange_tag(tag, at)),
        },
        Some(tag) if tag.suffix.is_empty() => Ok(as_text()),
        Some(tag) => Err(strange_tag(tag, at)),
    }
}

fn strange_tag(tag: &Tag, at: Place) -> UserDataError {
    let tag: String = format!("{}{}", tag.handle, tag.suffix)
        .chars()
        .filter(|c| !c.is_control())
        .take(60)
        .collect();
    UserDataError::new(at, format!("cloud-init does not know the tag {tag}: remove it"))
}
