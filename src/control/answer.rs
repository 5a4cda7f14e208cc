//! Answers and problems.

use crate::domain::Error;
use crate::protocol::api::Problem;
use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

/// What a request is answered with.
pub type Answer<T> = Result<Json<T>, Failed>;

/// An error on its way out.
pub struct Failed(pub Error);

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        let problem = Problem::from(&self.0);
        let status =
            StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let kind = [(header::CONTENT_TYPE, "application/problem+json")];
        (status, kind, serde_json::json!(problem).to_string()).into_response()
    }
}
