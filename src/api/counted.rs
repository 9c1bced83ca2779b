//! Calls, counted: by method and code, how long they took, and how many wait for their answer.

use std::collections::HashSet;
use std::sync::OnceLock;
use std::task::{Context, Poll};
use std::time::Instant;

use futures_util::future::BoxFuture;
use metrics::Gauge;
use prost::Message;
use tonic::Code;
use tonic::body::Body;
use tonic::codegen::http::HeaderMap;
use tonic::codegen::{Service, http};
use tower::Layer;

use super::{REQUEST_DURATION, REQUESTS, REQUESTS_RUNNING};
use crate::proto::DESCRIPTORS;

/// What calls of other services than the contract's are counted as: whoever calls chooses the name.
const OTHER: &str = "other";

/// The methods of the contract, as "Service/Method", and [`OTHER`].
pub fn methods() -> impl Iterator<Item = String> {
    known().iter().cloned().chain([OTHER.to_owned()])
}

fn known() -> &'static HashSet<String> {
    static KNOWN: OnceLock<HashSet<String>> = OnceLock::new();
    KNOWN.get_or_init(|| {
        let set =
            prost_types::FileDescriptorSet::decode(DESCRIPTORS).expect("the descriptors were made with this program");
        let ours = set.file.iter().filter(|file| file.package() == "penstock.v1");
        // The feed's is what penstock itself calls.
        let services = ours.flat_map(|file| &file.service).filter(|service| service.name() != "Feed");
        let methods = services
            .flat_map(|service| service.method.iter().map(|method| format!("{}/{}", service.name(), method.name())));
        methods.collect()
    })
}

/// A call that waits for its answer; one that is given up waits no more.
struct Running(Gauge);

impl Running {
    fn new(method: &'static str) -> Self {
        let gauge = metrics::gauge!(REQUESTS_RUNNING, "method" => method);
        gauge.increment(1);
        Self(gauge)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.decrement(1);
    }
}

/// Counts all calls, those included that the guard behind it refuses.
#[derive(Debug, Clone, Copy)]
pub struct Counted;

impl<S> Layer<S> for Counted {
    type Service = Counting<S>;

    fn layer(&self, inner: S) -> Counting<S> {
        Counting { inner }
    }
}

/// Counts the calls that go through.
#[derive(Debug, Clone)]
pub struct Counting<S> {
    inner: S,
}

impl<S, B> Service<http::Request<Body>> for Counting<S>
where
    S: Service<http::Request<Body>, Response = http::Response<B>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let method = method(request.uri().path());
        let (running, begun) = (Running::new(method), Instant::now());
        let answering = self.inner.call(request);
        Box::pin(async move {
            let answer = answering.await;
            drop(running);
            if let Ok(response) = &answer {
                let code = code(response.headers());
                metrics::histogram!(REQUEST_DURATION, "method" => method).record(begun.elapsed().as_secs_f64());
                metrics::counter!(REQUESTS, "method" => method, "code" => code).increment(1);
            }
            answer
        })
    }
}

fn method(path: &str) -> &'static str {
    path.strip_prefix("/penstock.v1.").and_then(|name| known().get(name)).map_or(OTHER, String::as_str)
}

/// A call that is refused has its code in the header, instead of behind an answer.
fn code(headers: &HeaderMap) -> &'static str {
    let code = headers.get("grpc-status").map_or(Code::Ok, |code| Code::from_bytes(code.as_bytes()));
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_contracts_methods_have_names() {
        assert_eq!(method("/penstock.v1.Definitions/Replace"), "Definitions/Replace");
        for path in ["/penstock.v1.Definitions/Repalce", "/grpc.health.v1.Health/Check", "/", ""] {
            assert_eq!(method(path), OTHER, "{path}");
        }
        assert!(methods().count() > 10, "{:?}", methods().collect::<Vec<_>>());
    }

    #[test]
    fn a_code_is_named_as_grpc_names_it() {
        let code = |status: &'static str| {
            code(&HeaderMap::from_iter([("grpc-status".parse().unwrap(), status.parse().unwrap())]))
        };
        assert_eq!((code("0"), code("10"), code("16"), code("x")), ("OK", "ABORTED", "UNAUTHENTICATED", "UNKNOWN"));
        assert_eq!(super::code(&HeaderMap::new()), "OK");
    }
}
