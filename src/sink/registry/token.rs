//! From a registry's challenge to a header: basic, or a token of its token endpoint.
//!
//! `oci-client` has this too; it follows any realm, reads answers of any size, and knows no identity tokens.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use reqwest::{Method, Url};

use super::content::Content;
use super::credentials::Credential;
use super::failure::{Cause, Failure, Io, Stale, Step};
use super::http::{Ask, Client, header};

/// No token is longer.
const TOKEN_BYTES_MAX: usize = 1 << 20;

/// What a registry asks for.
#[derive(Debug, PartialEq, Eq)]
enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

impl Client {
    /// A new header in place of the one that was refused, unless another request got one meanwhile. `source` is another
    /// repository that it has to let us read.
    pub(super) async fn renew(&self, stale: &Stale, source: Option<&str>) -> Result<(), Failure> {
        let _renewing = self.auth.renewing.lock().await;
        if self.auth.granted().0 != stale.generation {
            return Ok(());
        }
        let granted = match challenge(&stale.challenges) {
            Some(Challenge::Bearer { realm, service, scope }) => {
                let source = source.map(|source| format!("repository:{source}:pull"));
                bearer(&self.token(&realm, service, source.or_else(|| self.further(scope))).await?)?
            }
            Some(Challenge::Basic) => match &self.auth.credentials.credential {
                Credential::Password { user, password } => basic(user, password),
                Credential::IdentityToken(_) => return Err(refused("it wants a password, and there is only a token")),
                Credential::None => return Err(refused("it wants credentials")),
            },
            None => return Err(refused("it wants a kind of credentials that smolfreeze doesn't have")),
        };
        self.auth.grant(granted);
        Ok(())
    }

    /// What a registry wants beyond what it was asked for, of our own repository: to delete may have a name of its own.
    fn further(&self, scope: Option<String>) -> Option<String> {
        let (repository, asked) = self.auth.scope.rsplit_once(':')?;
        let scope = scope?;
        let actions = scope.strip_prefix(repository)?.strip_prefix(':')?;
        let is_known = |action: &str| asked.split(',').any(|asked| asked == action);
        (!actions.split(',').all(is_known)).then_some(scope)
    }

    async fn token(&self, realm: &str, service: Option<String>, more: Option<String>) -> Result<String, Failure> {
        #[derive(serde::Deserialize)]
        struct Granted {
            token: Option<String>,
            access_token: Option<String>,
        }
        let realm =
            self.guard.realm(realm).map_err(|refused| Failure::new(Step::Token, Cause::Io(Io::Refused), refused))?;
        let scopes: Vec<_> = std::iter::once(self.auth.scope.clone()).chain(more).collect();
        let answer = self.send(self.token_request(realm, service.as_deref(), &scopes)).await?;
        let body = answer.bytes(TOKEN_BYTES_MAX).await?;
        let granted: Option<Granted> = serde_json::from_slice(&body).ok();
        let token =
            granted.and_then(|granted| granted.token.or(granted.access_token)).filter(|token| !token.is_empty());
        token.ok_or_else(|| Failure::new(Step::Token, Cause::Nonsense, "the answer holds no token"))
    }

    fn token_request(&self, mut realm: Url, service: Option<&str>, scopes: &[String]) -> Ask {
        let all = scopes.join(" ");
        let mut fields: Vec<_> = service.map(|service| ("service", service)).into_iter().collect();
        if let Credential::IdentityToken(token) = &self.auth.credentials.credential {
            fields.extend([
                ("scope", &*all),
                ("grant_type", "refresh_token"),
                ("client_id", "smolfreeze"),
                ("refresh_token", token),
            ]);
            let form = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
            let mut ask =
                Ask { content: Content::chunks(vec![Bytes::from(form)]), ..Ask::new(Step::Token, Method::POST, realm) };
            ask.headers.insert(CONTENT_TYPE, header("application/x-www-form-urlencoded"));
            return ask;
        }
        fields.extend(scopes.iter().map(|scope| ("scope", scope.as_str())));
        realm.query_pairs_mut().extend_pairs(fields);
        let mut ask = Ask::new(Step::Token, Method::GET, realm);
        if let Credential::Password { user, password } = &self.auth.credentials.credential {
            ask.headers.insert(AUTHORIZATION, basic(user, password));
        }
        ask
    }
}

fn refused(words: &str) -> Failure {
    Failure::new(Step::Token, Cause::Status { status: 401, code: None }, format!("401 Unauthorized: {words}"))
}

fn basic(user: &str, password: &str) -> HeaderValue {
    let mut value = header(&format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))));
    value.set_sensitive(true);
    value
}

fn bearer(token: &str) -> Result<HeaderValue, Failure> {
    HeaderValue::from_str(&format!("Bearer {token}"))
        .map_err(|_| Failure::new(Step::Token, Cause::Nonsense, "the token can't be part of a header"))
}

/// The first challenge we can meet, bearer before basic.
fn challenge(headers: &[String]) -> Option<Challenge> {
    let mut basic = None;
    for header in headers {
        for challenge in http_auth::parse_challenges(header).unwrap_or_default() {
            let parameter = |name: &str| {
                let found = challenge.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
                found.map(|(_, value)| value.to_unescaped())
            };
            if let (true, Some(realm)) = (challenge.scheme.eq_ignore_ascii_case("bearer"), parameter("realm")) {
                return Some(Challenge::Bearer { realm, service: parameter("service"), scope: parameter("scope") });
            }
            if challenge.scheme.eq_ignore_ascii_case("basic") {
                basic = Some(Challenge::Basic);
            }
        }
    }
    basic
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read() {
        let bearer = |realm: &str, service: Option<&str>| {
            let scope = service.map(|_| "x:y:pull,push".to_owned());
            Some(Challenge::Bearer { realm: realm.to_owned(), service: service.map(str::to_owned), scope })
        };
        for (header, wanted) in [
            (
                r#"Bearer realm="https://a.example/token",service="r.example",scope="x:y:pull,push""#,
                bearer("https://a.example/token", Some("r.example")),
            ),
            (r#"bearer realm="/token""#, bearer("/token", None)),
            (r#"Basic realm="r""#, Some(Challenge::Basic)),
            (r#"Basic realm="r", Bearer realm="/token""#, bearer("/token", None)),
            ("Negotiate", None),
            ("", None),
            ("\"", None),
        ] {
            assert_eq!(challenge(&[header.to_owned()]), wanted, "{header}");
        }
    }
}
