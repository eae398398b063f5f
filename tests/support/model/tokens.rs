//! A model's tokens: each is for the repositories that it was asked for, as the specification of Docker's tokens has it.

use super::Shared;
use super::http::{Answer, Request};

/// What its token endpoint gives.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Tokens {
    /// Tokens for all that is asked for.
    ForAll,
    /// 403 to who asks for more than one repository.
    ForOne,
    /// As for all, and to delete is an action of its own, which the challenge names.
    ToDelete,
}

impl Shared {
    /// The answer to a request without a token that is good for it, or to one for a token.
    pub(super) fn gate(&self, request: &Request) -> Option<Answer> {
        let tokens = self.habits.tokens?;
        if request.path() == "/token" {
            let (_, query) = request.target.split_once('?').unwrap_or_default();
            let fields = url::form_urlencoded::parse(query.as_bytes());
            let scopes: Vec<_> =
                fields.filter(|(key, _)| key == "scope").map(|(_, scope)| scope.into_owned()).collect();
            if tokens == Tokens::ForOne && scopes.len() != 1 {
                return Some(Answer::error(403, "DENIED"));
            }
            let body = serde_json::json!({ "token": scopes.join(",,") }).to_string();
            return Some(Answer { body: std::sync::Arc::new(body.into_bytes()), ..Answer::of(200) });
        }
        let granted = request.header("authorization").and_then(|header| header.strip_prefix("Bearer "));
        let is_granted = |repository: &str, action: &str| {
            let scopes = granted.into_iter().flat_map(|granted| granted.split(",,"));
            let actions = scopes.filter_map(|scope| scope.strip_prefix(&format!("repository:{repository}:")));
            actions.flat_map(|actions| actions.split(',')).any(|granted| granted == action)
        };
        let path = request.path().trim_start_matches("/v2/");
        let repository = path.split_once("/blobs/").or_else(|| path.split_once("/manifests/"));
        let action = match request.method.as_str() {
            "GET" | "HEAD" => "pull",
            "DELETE" if tokens == Tokens::ToDelete => "delete",
            _ => "push",
        };
        let is_good = repository.map_or(granted.is_some(), |(repository, _)| is_granted(repository, action))
            && request.field("from").is_none_or(|from| is_granted(&from, "pull"));
        (!is_good).then(|| {
            let scope = repository.filter(|_| tokens == Tokens::ToDelete);
            let scope = scope.map_or_else(String::new, |(of, _)| format!(",scope=\"repository:{of}:{action}\""));
            let realm = format!("Bearer realm=\"http://{}/token\",service=\"model\"{scope}", self.address);
            Answer::error(401, "UNAUTHORIZED").with("WWW-Authenticate", &realm)
        })
    }
}
