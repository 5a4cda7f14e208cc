//! What a request carries, with a problem where that cannot be used.

use super::answer::Failed;
use super::serve::MAX_BODY;
use crate::domain::{Code, Error};
use aide::generate::GenContext;
use aide::openapi::Operation;
use aide::operation::OperationInput;
use axum::Json;
use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::IntoResponse;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;

/// A body of JSON, whatever the client says that it is.
pub struct Body<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Failed;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failed> {
        let about = "the request's body";
        let bytes = Bytes::from_request(request, state).await.map_err(|e| {
            match e.into_response().status() {
                StatusCode::PAYLOAD_TOO_LARGE => too_large(),
                _ => Error::new(Code::Usage, about, "did not arrive in full"),
            }
        })?;
        // Nothing at all stands for an object with nothing in it.
        let text = if bytes.is_empty() { b"{}" } else { &bytes[..] };
        let value = serde_json::from_slice(text).map_err(|e| {
            Error::new(Code::Usage, about, e).hint("GET /v1/openapi.json describes what it takes")
        })?;
        Ok(Self(value))
    }
}

/// The answer to a body over the limit.
pub fn too_large() -> Error {
    let message = format!("is longer than {MAX_BODY} bytes");
    Error::new(Code::RequestTooLarge, "the request's body", message)
}

impl<T: JsonSchema> OperationInput for Body<T> {
    fn operation_input(ctx: &mut GenContext, operation: &mut Operation) {
        Json::<T>::operation_input(ctx, operation);
    }
}

/// What follows the `?` in the address.
pub struct Params<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Failed;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failed> {
        let query = Query::from_request_parts(parts, state).await;
        let Query(value) = query.map_err(|e| {
            Error::new(Code::Usage, parts.uri.path(), e.body_text())
                .hint("GET /v1/openapi.json describes what it takes")
        })?;
        Ok(Self(value))
    }
}

impl<T: JsonSchema> OperationInput for Params<T> {
    fn operation_input(ctx: &mut GenContext, operation: &mut Operation) {
        Query::<T>::operation_input(ctx, operation);
    }
}

/// The part of the address that names a thing, e.g. `{id}`: `T` has a field of that name.
pub struct Named<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Named<T> {
    type Rejection = Failed;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failed> {
        let path = Path::from_request_parts(parts, state).await;
        let Path(value) =
            path.map_err(|e| Error::new(Code::NotFound, parts.uri.path(), e.body_text()))?;
        Ok(Self(value))
    }
}

impl<T: JsonSchema> OperationInput for Named<T> {
    fn operation_input(ctx: &mut GenContext, operation: &mut Operation) {
        Path::<T>::operation_input(ctx, operation);
    }
}
