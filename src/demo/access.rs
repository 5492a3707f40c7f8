//! Who may do what: tokens with few rights, as RBAC would give them. Whoever shows another token, or none, may do everything.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use http::Method;
use serde_json::{Value, json};

use crate::demo::call::Call;
use crate::demo::status::Failure;

/// A rule of a Role; in every namespace.
#[derive(Clone, Copy, Debug)]
pub struct Grant {
    /// API group.
    pub group: &'static str,
    /// Resource, with its subresource: `pods`, `pods/log`.
    pub resource: &'static str,
    /// Verbs.
    pub verbs: &'static [&'static str],
}

/// By token.
#[derive(Default)]
pub(super) struct Access(Mutex<BTreeMap<String, Vec<Grant>>>);

impl Access {
    pub(super) fn restrict(&self, token: &str, grants: &[Grant]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(token.to_owned(), grants.to_owned());
    }

    fn allows(&self, authorization: &str, group: &str, resource: &str, verb: &str) -> bool {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let grants = |grant: &Grant| grant.group == group && grant.resource == resource && grant.verbs.contains(&verb);
        let restricted = authorization.strip_prefix("Bearer ").and_then(|token| all.get(token));
        restricted.is_none_or(|rights| rights.iter().any(grants))
    }

    /// Refuses what the token has no right to.
    pub(super) fn check(&self, authorization: &str, method: &Method, call: &Call) -> Result<(), Failure> {
        let verb = match (method, call.name.is_some()) {
            (&Method::GET, true) => "get",
            (&Method::GET, false) if call.is("watch") => "watch",
            (&Method::GET, false) => "list",
            (&Method::POST, _) => "create",
            (&Method::PUT, _) => "update",
            (&Method::PATCH, _) => "patch",
            (&Method::DELETE, true) => "delete",
            (&Method::DELETE, false) => "deletecollection",
            // What no verb stands for is refused later.
            _ => return Ok(()),
        };
        let sub = call.subresource.as_ref().map(|name| format!("/{name}")).unwrap_or_default();
        let resource = format!("{}{sub}", call.kind.plural);
        if self.allows(authorization, &call.kind.group, &resource, verb) {
            return Ok(());
        }
        let message = format!("the token cannot {verb} resource {resource:?} in API group {:?}", call.kind.group);
        Err(Failure::new(http::StatusCode::FORBIDDEN, "Forbidden", message))
    }

    /// The answer to a `SelfSubjectAccessReview`.
    pub(super) fn review(&self, authorization: &str, body: &[u8]) -> Result<Value, Failure> {
        let mut review: Value = serde_json::from_slice(body)
            .map_err(|error| Failure::bad_request(format!("the review is no JSON: {error}")))?;
        let text = |field: &str| review["spec"]["resourceAttributes"][field].as_str().unwrap_or_default().to_owned();
        let sub = Some(text("subresource")).filter(|name| !name.is_empty()).map(|name| format!("/{name}"));
        let resource = text("resource") + &sub.unwrap_or_default();
        let allowed = self.allows(authorization, &text("group"), &resource, &text("verb"));
        review["status"] = json!({ "allowed": allowed });
        Ok(review)
    }
}
