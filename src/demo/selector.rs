//! Label and field selectors (`a=b,c!=d,e in (f,g),!h`).

use serde_json::Value;

use crate::demo::status::Failure;

/// All terms must hold.
#[derive(Clone, Debug, Default)]
pub(super) struct Selector(Vec<Term>);

#[derive(Clone, Debug)]
struct Term {
    key: String,
    operator: Operator,
}

#[derive(Clone, Debug)]
enum Operator {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Absent,
}

impl Selector {
    /// Reads a selector as query parameters carry it.
    pub(super) fn parse(text: &str) -> Result<Self, Failure> {
        split(text)
            .into_iter()
            .map(str::trim)
            .filter(|term| !term.is_empty())
            .map(term)
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// What it asks about.
    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|term| term.key.as_str())
    }

    /// Whether it holds for what `value` tells of each key.
    pub(super) fn matches<'v>(&self, value: impl Fn(&str) -> Option<&'v str>) -> bool {
        self.0.iter().all(|Term { key, operator }| match (operator, value(key)) {
            (Operator::In(all), Some(value)) => all.iter().any(|one| one == value),
            (Operator::In(_) | Operator::Exists, None) | (Operator::Absent, Some(_)) => false,
            (Operator::NotIn(all), Some(value)) => all.iter().all(|one| one != value),
            (Operator::NotIn(_) | Operator::Absent, None) | (Operator::Exists, Some(_)) => true,
        })
    }
}

/// The value of a field that selectors may name.
pub(super) fn field<'v>(object: &'v Value, path: &str) -> Option<&'v str> {
    let pointer = format!("/{}", path.replace('.', "/"));
    object.pointer(&pointer).and_then(Value::as_str)
}

/// Splits at the commas outside parentheses.
fn split(text: &str) -> Vec<&str> {
    let mut depth = 0_i32;
    text.split(move |c: char| {
        depth += i32::from(c == '(') - i32::from(c == ')');
        c == ',' && depth == 0
    })
    .collect()
}

fn term(text: &str) -> Result<Term, Failure> {
    let one = |key: &str, operator: Operator| Term { key: key.trim().to_owned(), operator };
    let list = |text: &str| -> Option<Vec<String>> {
        let inner = text.trim().strip_prefix('(')?.strip_suffix(')')?;
        Some(inner.split(',').map(|value| value.trim().to_owned()).collect())
    };
    if let Some((key, value)) = text.split_once("!=") {
        return Ok(one(key, Operator::NotIn(vec![value.trim().to_owned()])));
    }
    if let Some((key, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
        return Ok(one(key, Operator::In(vec![value.trim().to_owned()])));
    }
    let unreadable = || Failure::bad_request(format!("unable to parse requirement: {text:?}"));
    if let Some((key, values)) = text.split_once(" notin ") {
        return Ok(one(key, Operator::NotIn(list(values).ok_or_else(unreadable)?)));
    }
    if let Some((key, values)) = text.split_once(" in ") {
        return Ok(one(key, Operator::In(list(values).ok_or_else(unreadable)?)));
    }
    match text.strip_prefix('!') {
        Some(key) => Ok(one(key, Operator::Absent)),
        None if text.contains(char::is_whitespace) => Err(unreadable()),
        None => Ok(one(text, Operator::Exists)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_of_all_forms_hold_as_the_api_server_holds_them() {
        let labels = |key: &str| match key {
            "app" => Some("web"),
            "tier" => Some("front"),
            _ => None,
        };
        for (text, holds) in [
            ("", true),
            ("app=web,tier==front", true),
            ("app=api", false),
            ("app!=api,other!=x", true),
            ("app in (api, web),tier notin (back)", true),
            ("app in (api)", false),
            ("app,!other", true),
            ("!app", false),
            ("other", false),
        ] {
            assert_eq!(Selector::parse(text).unwrap().matches(labels), holds, "{text}");
        }
        assert!(Selector::parse("app in web").is_err() && Selector::parse("a b").is_err());
    }
}
