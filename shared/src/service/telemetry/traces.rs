//! Traces: the path of a request through both programs, exported to a collector (OTLP over HTTP).
//!
//! The context is a W3C `traceparent`, in requests and in frames. Without a collector no span is
//! created, and the context of a caller is forwarded unchanged. The creator of a span decides which
//! attributes it has.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{
    Span as _, SpanContext, SpanKind, Status, TraceContextExt, Tracer as _, TracerProvider,
};
use opentelemetry::{Context, InstrumentationScope, KeyValue, Value};
use opentelemetry_http::{HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};
use tokio::runtime::Handle;

use crate::service::config::{Group, Reader, Setting};

/// How long a collector may take to answer.
const EXPORT_LIMIT: Duration = Duration::from_secs(10);

/// How long the last spans may take to be exported when the process ends.
const FLUSH_LIMIT: Duration = Duration::from_secs(3);

/// The most bytes of a collector's answer that are read.
const ANSWER_LIMIT: usize = 64 * 1024;

const ENDPOINT: Setting = Setting::optional(
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "none: no traces are exported",
    "The http:// address of a collector that traces are exported to, as OTLP in protobuf.",
)
.url();

const SERVICE_NAME: Setting = Setting::optional(
    "OTEL_SERVICE_NAME",
    "the name of the program",
    "The service that exported spans belong to.",
);

/// The settings of traces. The SDK reads further `OTEL_` variables by itself.
pub const TRACE_SETTINGS: Group = Group {
    title: "Traces (further OTEL_ variables of the OpenTelemetry SDK hold as well)",
    settings: &[ENDPOINT, SERVICE_NAME],
};

/// Where traces go.
#[derive(Debug, Clone, Default)]
pub struct TraceConfig {
    /// `OTEL_EXPORTER_OTLP_ENDPOINT`. Without it nothing is exported.
    pub endpoint: Option<String>,
}

impl TraceConfig {
    /// Reads the settings.
    pub fn read(reader: &mut Reader) -> Self {
        let endpoint = reader.text(&ENDPOINT);
        // The SDK applies it; here it is only reported.
        reader.text(&SERVICE_NAME);
        // A collector runs beside the program; TLS is not supported.
        if let Some(url) = endpoint.as_ref().filter(|url| !url.starts_with("http://")) {
            reader.refuse(&ENDPOINT, url, "is not an http:// address");
        }
        Self { endpoint }
    }
}

/// The configured exporter cannot be created.
#[derive(Debug, thiserror::Error)]
#[error("traces cannot be exported: {0}")]
pub struct TraceError(#[from] opentelemetry_otlp::ExporterBuildError);

/// Creates spans. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Tracer(Option<Arc<Exporting>>);

#[derive(Debug)]
struct Exporting {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

impl Tracer {
    /// Creates the tracer of the program `service`. Must be called within a runtime, which runs the
    /// exports.
    pub fn start(config: &TraceConfig, service: &'static str) -> Result<Self, TraceError> {
        let Some(endpoint) = &config.endpoint else {
            return Ok(Self::default());
        };
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(Client::new())
            .with_endpoint(format!("{}/v1/traces", endpoint.trim_end_matches('/')))
            .build()?;
        let mut resource = Resource::builder();
        if std::env::var_os(SERVICE_NAME.name).is_none() {
            resource = resource.with_service_name(service);
        }
        let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_resource(resource.with_attribute(version).build())
            .build();
        let scope = InstrumentationScope::builder("execution-service").build();
        let tracer = provider.tracer_with_scope(scope);
        Ok(Self(Some(Arc::new(Exporting { provider, tracer }))))
    }

    /// A span of a request from outside. It is a child of the caller's span, if the caller sent
    /// one.
    pub fn request(&self, name: &'static str, parent: Option<&str>) -> Span {
        let Some(exporting) = &self.0 else {
            return Span::default();
        };
        let context = parent.and_then(parse_context).unwrap_or_default();
        exporting.span(name, SpanKind::Server, &context)
    }

    /// A span of a job from the queue. It records nothing if the sender does not trace.
    pub fn job(&self, name: &'static str, parent: Option<&str>) -> Span {
        match (&self.0, parent.and_then(parse_context)) {
            (Some(exporting), Some(context)) => exporting.span(name, SpanKind::Consumer, &context),
            _ => Span::default(),
        }
    }

    /// Exports the remaining spans.
    pub async fn shutdown(self) {
        let Some(exporting) = self.0 else { return };
        // The exporter's thread needs free threads of this runtime, so this one must not block.
        let flushing = move || exporting.provider.shutdown_with_timeout(FLUSH_LIMIT);
        match tokio::task::spawn_blocking(flushing).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "last spans lost"),
            Err(error) => tracing::warn!(%error, "last spans lost"),
        }
    }
}

impl Exporting {
    fn span(&self, name: &'static str, kind: SpanKind, parent: &Context) -> Span {
        let builder = self.tracer.span_builder(name).with_kind(kind);
        let span = builder.start_with_context(&self.tracer, parent);
        Span(span.is_recording().then(|| Box::new(span)))
    }
}

/// A part of a trace. It ends when it is dropped. A span that is not exported costs nothing.
#[derive(Debug, Default)]
pub struct Span(Option<Box<opentelemetry_sdk::trace::Span>>);

impl Span {
    /// Whether the span is exported.
    pub fn is_recording(&self) -> bool {
        self.0.is_some()
    }

    /// Sets an attribute.
    pub fn set(&mut self, name: &'static str, value: impl Into<Value>) {
        if let Some(span) = &mut self.0 {
            span.set_attribute(KeyValue::new(name, value));
        }
    }

    /// Marks the span as failed. `code` is the kind of failure.
    pub fn fail(&mut self, code: &'static str) {
        if let Some(span) = &mut self.0 {
            span.set_attribute(KeyValue::new("error.type", code));
            span.set_status(Status::error(code));
        }
    }

    /// The context that makes other spans children of this one.
    pub fn traceparent(&self) -> Option<String> {
        self.0
            .as_ref()
            .map(|span| to_traceparent(span.span_context()))
    }
}

fn to_traceparent(context: &SpanContext) -> String {
    let (trace, span) = (context.trace_id(), context.span_id());
    format!("00-{trace}-{span}-{:02x}", context.trace_flags())
}

/// The trace id in a `traceparent`, for the log.
pub fn trace_id(traceparent: &str) -> Option<&str> {
    is_traceparent(traceparent).then(|| &traceparent[3..35])
}

/// Whether a text looks like a `traceparent`: `00-TRACE-SPAN-FLAGS` in lower-case hexadecimal
/// digits.
pub fn is_traceparent(text: &str) -> bool {
    let lengths = [2, 32, 16, 2];
    let mut parts = text.split('-');
    let is_hex = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
    lengths.iter().all(|length| {
        parts
            .next()
            .is_some_and(|part| part.len() == *length && part.bytes().all(is_hex))
    }) && (parts.next().is_none() || !text.starts_with("00"))
}

fn parse_context(traceparent: &str) -> Option<Context> {
    let context = TraceContextPropagator::new().extract(&Carrier(traceparent));
    context.span().span_context().is_valid().then_some(context)
}

/// A carrier that holds only a `traceparent`.
struct Carrier<'a>(&'a str);

impl Extractor for Carrier<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        (name == "traceparent").then_some(self.0)
    }

    fn keys(&self) -> Vec<&str> {
        vec!["traceparent"]
    }
}

/// The HTTP client of the exporter. The exporter's thread has no runtime, so requests run on ours.
#[derive(Debug)]
struct Client {
    http: hyper_util::client::legacy::Client<HttpConnector, Full<Bytes>>,
    runtime: Handle,
}

impl Client {
    fn new() -> Self {
        Self {
            http: hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build_http(),
            runtime: Handle::current(),
        }
    }
}

#[async_trait::async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let http = self.http.clone();
        let exchange = async move {
            let response = http.request(request.map(Full::new)).await?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, ANSWER_LIMIT).collect().await?;
            Ok(Response::from_parts(head, body.to_bytes()))
        };
        // A timer can only be created within the runtime.
        let exchange = async { tokio::time::timeout(EXPORT_LIMIT, exchange).await };
        self.runtime.spawn(exchange).await??
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::service::config::Env;

    const SAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_trace_context_is_recognised() {
        assert!(is_traceparent(SAMPLED));
        assert!(is_traceparent(&format!("01{}-more", &SAMPLED[2..])));
        assert_eq!(trace_id(SAMPLED), Some("0af7651916cd43dd8448eb211c80319c"));
        for text in [
            "",
            "00",
            &SAMPLED.to_uppercase(),
            &SAMPLED[1..],
            &format!("{SAMPLED}-more"),
            &SAMPLED.replace('7', "ü"),
        ] {
            assert!(!is_traceparent(text), "{text}");
        }
    }

    #[test]
    fn a_parsed_context_is_written_unchanged() {
        let context = parse_context(SAMPLED).expect("a context");
        assert_eq!(to_traceparent(context.span().span_context()), SAMPLED);
        assert!(parse_context("00-00000000000000000000000000000000-b7ad6b7169203331-01").is_none());
    }

    #[test]
    fn without_a_collector_no_span_is_created() {
        let span = Tracer::default().request("x", Some(SAMPLED));
        assert!(!span.is_recording());
        assert_eq!(span.traceparent(), None);
    }

    #[test]
    fn an_unsupported_address_is_named() {
        let mut reader = Reader::new(Env::table(|name| {
            (name == ENDPOINT.name).then(|| "https://far.away".to_owned())
        }));
        TraceConfig::read(&mut reader);
        let error = reader.finish().unwrap_err().to_string();
        assert!(error.starts_with(ENDPOINT.name), "{error}");
    }

    /// Answers one request of an exporter. Returns its first line.
    async fn collect(listener: tokio::net::TcpListener) -> String {
        let (mut stream, _) = listener.accept().await.expect("the exporter connects");
        let mut head = Vec::new();
        while !head.windows(4).any(|end| end == b"\r\n\r\n") {
            assert!(stream.read_buf(&mut head).await.expect("it sends") > 0);
        }
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        stream.write_all(answer).await.expect("it reads");
        let head = String::from_utf8_lossy(&head);
        head.lines().next().unwrap_or_default().to_owned()
    }

    #[tokio::test]
    async fn remaining_spans_are_exported_at_shutdown() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("a port is free");
        let address = listener.local_addr().expect("a listener has an address");
        let config = TraceConfig {
            endpoint: Some(format!("http://{address}/")),
        };
        let tracer = Tracer::start(&config, "test").expect("an exporter");
        let mut span = tracer.request("x", Some(SAMPLED));
        assert!(
            span.traceparent()
                .is_some_and(|text| text.starts_with(&SAMPLED[..36]))
        );
        span.set("y", 1);
        drop(span);
        let (asked, ()) = tokio::join!(collect(listener), tracer.shutdown());
        assert_eq!(asked, "POST /v1/traces HTTP/1.1");
    }

    #[tokio::test]
    async fn a_job_without_a_trace_has_no_span() {
        let config = TraceConfig {
            endpoint: Some("http://127.0.0.1:9".to_owned()),
        };
        let tracer = Tracer::start(&config, "test").expect("an exporter");
        assert!(!tracer.job("x", None).is_recording());
        assert!(!tracer.job("x", Some("nonsense")).is_recording());
        assert!(tracer.job("x", Some(SAMPLED)).is_recording());
        let unwanted = SAMPLED.replace("-01", "-00");
        assert!(!tracer.job("x", Some(&unwanted)).is_recording());
        tracer.shutdown().await;
    }
}
