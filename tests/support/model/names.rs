//! A model's tags: listed page by page, and deleted, or not.

use super::Shared;
use super::http::{Answer, Request};

/// What it does with a `DELETE` of a manifest.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Deletes {
    /// A tag goes, or a manifest with all its tags.
    Tags,
    /// Only manifests, with all their tags: 400 for a tag.
    Manifests,
    /// It says that a tag is gone, and keeps it; manifests go.
    ClaimsTags,
    /// 405.
    Nothing,
}

impl Shared {
    pub(super) fn tags(&self, request: &Request, repository: &str) -> Answer {
        let last = request.field("last").unwrap_or_default();
        let state = self.state();
        let names = state.manifests.keys().filter(|(of, name)| of == repository && !name.contains(':') && *name > last);
        let mut names: Vec<_> = names.map(|(_, name)| name.clone()).collect();
        names.sort();
        let mut answer = Answer::of(200);
        if names.len() > self.habits.tags_a_page {
            names.truncate(self.habits.tags_a_page);
            let last = names.last().cloned().unwrap_or_default();
            answer = answer.with("Link", &format!("</v2/{repository}/tags/list?last={last}>; rel=\"next\""));
        }
        let body = serde_json::json!({ "name": repository, "tags": names }).to_string();
        Answer { body: std::sync::Arc::new(body.into_bytes()), ..answer }
    }

    pub(super) fn delete(&self, repository: &str, name: &str) -> Answer {
        let is_tag = !name.contains(':');
        match self.habits.deletes {
            Deletes::Nothing => return Answer::error(405, "UNSUPPORTED"),
            Deletes::Manifests if is_tag => return Answer::error(400, "DIGEST_INVALID"),
            Deletes::ClaimsTags if is_tag => return Answer::of(202),
            _ => {}
        }
        let mut state = self.state();
        let key = (repository.to_owned(), name.to_owned());
        let Some((_, bytes)) = state.manifests.remove(&key) else { return Answer::error(404, "MANIFEST_UNKNOWN") };
        if !is_tag {
            state.manifests.retain(|(of, _), (_, others)| of != repository || *others != bytes);
        }
        Answer::of(202)
    }
}
