//! Answers and problems.

use crate::domain::Error;
use crate::protocol::api::Problem;
use aide::generate::GenContext;
use aide::openapi::{MediaType, Operation, Response as Documented, SchemaObject};
use aide::operation::OperationOutput;
use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::Serialize;

/// What a request is answered with.
pub type Answer<T> = Result<Json<T>, Failed>;

/// An error on its way out.
#[derive(Debug)]
pub struct Failed(pub Error);

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

/// The media type of problems.
const PROBLEM: &str = "application/problem+json";

impl Failed {
    /// With a status that HTTP has for this alone.
    pub fn respond_with(self, status: StatusCode) -> Response {
        let problem = Problem {
            status: status.as_u16(),
            ..Problem::from(&self.0)
        };
        let kind = [(header::CONTENT_TYPE, PROBLEM)];
        (status, kind, serde_json::json!(problem).to_string()).into_response()
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(Problem::from(&self.0).status);
        self.respond_with(status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR))
    }
}

/// What was submitted, now or before under the same key.
pub struct Made<T> {
    /// It.
    pub made: T,
    /// Whether it is new.
    pub new: bool,
}

impl<T: Serialize> IntoResponse for Made<T> {
    fn into_response(self) -> Response {
        let status = match self.new {
            true => StatusCode::CREATED,
            false => StatusCode::OK,
        };
        (status, Json(self.made)).into_response()
    }
}

impl<T: JsonSchema> OperationOutput for Made<T> {
    type Inner = T;

    fn inferred_responses(
        ctx: &mut GenContext,
        _: &mut Operation,
    ) -> Vec<(Option<u16>, Documented)> {
        let with = |status, words: &str, ctx: &mut _| {
            let mut response = documented::<T>(ctx, "application/json");
            response.description = words.to_owned();
            (Some(status), response)
        };
        vec![
            with(201, "What was submitted.", ctx),
            with(200, "What this key made before.", ctx),
        ]
    }
}

/// Every route can answer with a problem: it is the default response.
impl OperationOutput for Failed {
    type Inner = Problem;

    fn inferred_responses(
        ctx: &mut GenContext,
        _: &mut Operation,
    ) -> Vec<(Option<u16>, Documented)> {
        vec![(None, documented::<Problem>(ctx, PROBLEM))]
    }
}

/// An answer of a kind with the schema of `T`, described in its words.
pub fn documented<T: JsonSchema>(ctx: &mut GenContext, kind: &str) -> Documented {
    let json_schema = ctx.schema.subschema_for::<T>();
    let resolved = ctx.resolve_schema(&json_schema);
    let description = resolved.get("description").and_then(|words| words.as_str());
    let description = description.unwrap_or_default().to_owned();
    let schema = SchemaObject {
        json_schema,
        example: None,
        external_docs: None,
    };
    let content = MediaType {
        schema: Some(schema),
        ..MediaType::default()
    };
    Documented {
        description,
        content: [(kind.to_owned(), content)].into_iter().collect(),
        ..Documented::default()
    }
}
