//! A trace collector that receives exported spans and stores them.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use axum::routing::post;
use bytes::Bytes;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use prost::Message;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// A span that was exported.
#[derive(Debug, Clone)]
pub(crate) struct Span {
    pub(crate) service: String,
    pub(crate) name: String,
    pub(crate) trace: String,
    pub(crate) id: String,
    pub(crate) parent: String,
    attributes: Vec<KeyValue>,
    pub(crate) failed: bool,
}

type Spans = Arc<Mutex<Vec<Span>>>;

/// A running collector.
pub(crate) struct Collector {
    pub(crate) url: String,
    spans: Spans,
    task: JoinHandle<()>,
}

impl Collector {
    /// Starts a collector on a free port.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port is free");
        let address = listener.local_addr().expect("a listener has an address");
        let spans = Spans::default();
        let routes = Router::new()
            .route("/v1/traces", post(take))
            .with_state(spans.clone());
        let task = tokio::spawn(async move {
            axum::serve(listener, routes).await.expect("it can listen");
        });
        Self {
            url: format!("http://{address}"),
            spans,
            task,
        }
    }

    /// The spans of one trace so far.
    pub(crate) fn of(&self, trace: &str) -> Vec<Span> {
        let spans = self.spans.lock().expect("the lock is not poisoned");
        spans
            .iter()
            .filter(|span| span.trace == trace)
            .cloned()
            .collect()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn take(State(spans): State<Spans>, body: Bytes) {
    let request = ExportTraceServiceRequest::decode(body).expect("protobuf");
    let mut spans = spans.lock().expect("the lock is not poisoned");
    for of_resource in request.resource_spans {
        let resource = of_resource.resource.expect("a service says who it is");
        let service = text(&resource.attributes, "service.name");
        for span in of_resource.scope_spans.into_iter().flat_map(|s| s.spans) {
            spans.push(Span {
                service: service.clone(),
                name: span.name,
                trace: hex(&span.trace_id),
                id: hex(&span.span_id),
                parent: hex(&span.parent_span_id),
                attributes: span.attributes,
                failed: span.status.is_some_and(|status| status.code == 2),
            });
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

fn text(attributes: &[KeyValue], name: &str) -> String {
    let value = attributes.iter().find(|attribute| attribute.key == name);
    match value.and_then(|attribute| attribute.value.clone()) {
        Some(AnyValue {
            value: Some(Value::StringValue(text)),
        }) => text,
        Some(AnyValue {
            value: Some(Value::IntValue(number)),
        }) => number.to_string(),
        _ => String::new(),
    }
}

impl Span {
    /// An attribute, as text.
    pub(crate) fn attribute(&self, name: &str) -> String {
        text(&self.attributes, name)
    }
}
