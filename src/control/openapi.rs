//! The OpenAPI document, out of the routes' own types.

use aide::axum::ApiRouter;
use aide::openapi::{Info, OpenApi, Operation, ReferenceOr, SecurityScheme, Server, Tag};
use aide::transform::TransformOperation;
use axum::{Json, Router};
use serde_json::Value;
use std::sync::Arc;

/// The document of a router.
#[derive(Clone)]
pub struct Document(Arc<Value>);

/// `GET /v1/openapi.json`.
pub async fn document(
    axum::Extension(Document(document)): axum::Extension<Document>,
) -> Json<Value> {
    Json((*document).clone())
}

/// The line that describes a route.
pub fn about(
    summary: &'static str,
) -> impl FnOnce(TransformOperation<'_>) -> TransformOperation<'_> {
    move |operation| operation.summary(summary)
}

/// Begins to collect: what aide learns of types it keeps for each thread.
pub fn begin() {
    aide::generate::reset_context();
    aide::generate::extract_schemas(true);
    // Every route answers errors in one way, which its type says.
    aide::generate::all_error_responses(false);
}

/// The router, which also hands out the document of its routes.
pub fn finish<S: Clone + Send + Sync + 'static>(routes: ApiRouter<S>) -> Router<S> {
    let mut api = OpenApi {
        info: Info {
            title: "backpropd".into(),
            description: Some(
                "The control interface of a backpropd daemon, over its Unix socket or, where \
                 it is configured, a TCP address with a token. Errors are problems (RFC 9457) \
                 with a stable `code`, and events are server-sent events."
                    .into(),
            ),
            version: env!("CARGO_PKG_VERSION").into(),
            ..Info::default()
        },
        servers: vec![Server {
            url: "/".into(),
            ..Server::default()
        }],
        ..OpenApi::default()
    };
    let router = routes.finish_api(&mut api);
    name_operations(&mut api);
    let token = SecurityScheme::Http {
        scheme: "bearer".into(),
        bearer_format: None,
        description: Some("The token in `control.token_file`; TCP only.".into()),
        extensions: Default::default(),
    };
    let components = api.components.get_or_insert_default();
    let schemes = &mut components.security_schemes;
    schemes.insert("token".into(), ReferenceOr::Item(token));
    let with_token = [("token".to_owned(), Vec::new())].into_iter().collect();
    // Either nothing, over the Unix socket, or the token.
    api.security = vec![Default::default(), with_token];
    let document = serde_json::to_value(api).unwrap_or_default();
    router.layer(axum::Extension(Document(Arc::new(document))))
}

/// Each operation gets a name, `get_runs_id`, and a tag, `runs`, from its method and path.
fn name_operations(api: &mut OpenApi) {
    let Some(paths) = &mut api.paths else { return };
    let mut tags = Vec::new();
    for (path, item) in &mut paths.paths {
        let ReferenceOr::Item(item) = item else {
            continue;
        };
        let path = path.strip_prefix("/v1").unwrap_or(path);
        let words = path.split(|c: char| !c.is_ascii_alphanumeric());
        let words = words.filter(|word| !word.is_empty());
        let words: Vec<&str> = words.collect();
        let tag = words.first().copied().unwrap_or_default().to_owned();
        let operations = [
            ("get", &mut item.get),
            ("post", &mut item.post),
            ("put", &mut item.put),
            ("patch", &mut item.patch),
            ("delete", &mut item.delete),
        ];
        let there = |(method, operation): (_, _)| -> Option<(&str, &mut Operation)> {
            Some((method, Option::as_mut(operation)?))
        };
        for (method, operation) in operations.into_iter().filter_map(there) {
            operation.operation_id = Some(format!("{method}_{}", words.join("_")));
            operation.tags = vec![tag.clone()];
        }
        if !tags.contains(&tag) {
            tags.push(tag);
        }
    }
    let tag = |name| Tag {
        name,
        ..Tag::default()
    };
    api.tags = tags.into_iter().map(tag).collect();
}
