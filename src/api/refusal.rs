//! Why a call is refused, as gRPC says it: a status, and where a request is invalid each error's path and reason
//! (google.rpc.BadRequest).

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

use crate::control::Refused;
use crate::service::Errors;
use crate::service::tree::quote;

/// Bytes of text that a status may have, each in its message and in its details (`definitions.proto` says so). A status travels in a trailer, and common clients take no
/// more than 8 KiB of those.
const MOST: usize = 1500;

/// An invalid request; `prefix` stands in front of each path ("service.").
pub fn invalid(errors: &Errors, prefix: &str) -> Status {
    let field = |path: &str| match path {
        "" => prefix.trim_end_matches('.').to_owned(),
        path => format!("{prefix}{path}"),
    };
    let (mut message, mut violations, mut length) = (String::new(), Vec::new(), 0);
    for problem in &errors.0 {
        let field = field(&problem.path);
        length += field.len() + problem.reason.len() + 8;
        if length > MOST && !violations.is_empty() {
            break;
        }
        let line = if field.is_empty() { problem.reason.clone() } else { format!("{field}: {}", problem.reason) };
        message = if message.is_empty() { line } else { message + "\n" + &line };
        violations.push(FieldViolation::new(field, problem.reason.clone()));
    }
    if violations.len() < errors.0.len() {
        message += &format!("\n… and {} more", errors.0.len() - violations.len());
    }
    Status::with_error_details(Code::InvalidArgument, message, ErrorDetails::with_bad_request(violations))
}

/// One field that is not what it should be.
pub fn field(field: &str, reason: impl Into<String>) -> Status {
    let reason = reason.into();
    let details = ErrorDetails::with_bad_request_violation(field, reason.clone());
    Status::with_error_details(Code::InvalidArgument, format!("{field}: {reason}"), details)
}

/// What the control thread refuses.
pub fn refused(refused: Refused, prefix: &str) -> Status {
    let text = refused.to_string();
    match refused {
        Refused::FeedRules(_) => Status::failed_precondition(text),
        Refused::Version { .. } | Refused::Outdated => Status::aborted(text),
        Refused::NotFound(_) => Status::not_found(text),
        Refused::Invalid(errors) => invalid(&errors, prefix),
        Refused::NotKept(_) => Status::unavailable(text),
        Refused::Stopping => stopping(),
    }
}

/// No service has this name.
pub fn no_service(name: &str) -> Status {
    Status::not_found(format!("there is no service {}", quote(name)))
}

pub fn stopping() -> Status {
    Status::unavailable("the node is stopping")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::Problem;

    fn errors(count: usize) -> Errors {
        let problem = |number| Problem {
            file: "request".into(),
            path: format!("services[{number}].vip"),
            reason: "required, but absent. The address that clients connect to".to_owned(),
        };
        Errors((0..count).map(problem).collect())
    }

    #[test]
    fn every_error_has_its_path_and_reason() {
        let status = invalid(&errors(3), "definitions.");
        let details = status.get_error_details();
        let violations = &details.bad_request().unwrap().field_violations;
        assert_eq!(violations.len(), 3);
        assert_eq!(violations[2].field, "definitions.services[2].vip");
        assert!(status.message().starts_with("definitions.services[0].vip: required, but absent."));
        assert_eq!(status.message().lines().count(), 3);
    }

    #[test]
    fn however_many_errors_there_are_a_client_can_take_the_answer() {
        let status = invalid(&errors(100_000), "definitions.");
        let encoded = status.details().len() * 4 / 3 + status.message().len() * 2;
        assert!(encoded < 8 << 10, "{encoded} bytes");
        assert!(status.message().ends_with(" more"), "{}", status.message());
    }
}
