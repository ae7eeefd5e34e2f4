//! A thin HTTP client that sends requests as a caller does and returns answers unchanged.

use std::time::Duration;

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use super::wait;

/// The time limit of every request, far above every deadline of the service.
const LIMIT: Duration = Duration::from_mins(1);

/// How long an executable may stay without a verdict. The first load has it nearly always.
const JUDGED_WITHIN: Duration = Duration::from_mins(2);

/// A client of one api.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    port: u16,
    base: String,
}

/// An HTTP response: status, headers and body.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Client {
    /// A client for the api on `port` of the loopback interface.
    pub(crate) fn new(port: u16) -> Self {
        let http = reqwest::Client::builder()
            .no_proxy()
            .timeout(LIMIT)
            .build()
            .expect("a client without TLS can always be made");
        Self {
            http,
            port,
            base: format!("http://127.0.0.1:{port}"),
        }
    }

    /// A client of the same api that sends a key.
    pub(crate) fn as_caller(&self, key: &str) -> Self {
        let value = format!("Bearer {key}")
            .parse()
            .expect("a key is a header's value");
        let http = reqwest::Client::builder()
            .no_proxy()
            .timeout(LIMIT)
            .default_headers(HeaderMap::from_iter([(AUTHORIZATION, value)]))
            .build()
            .expect("a client without TLS can always be made");
        Self {
            http,
            ..self.clone()
        }
    }

    /// The same caller at another api.
    pub(crate) fn at(&self, port: u16) -> Self {
        Self {
            port,
            base: format!("http://127.0.0.1:{port}"),
            ..self.clone()
        }
    }

    /// The port of the api.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The URL of a path.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// A request that the test completes and then sends with [`send`].
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, self.url(path))
    }

    /// `GET path`
    pub(crate) async fn get(&self, path: &str) -> Answer {
        send(self.request(Method::GET, path)).await
    }

    /// `POST path` with a JSON body.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        send(self.request(Method::POST, path).json(body)).await
    }

    /// `POST path` with a body that is sent unchanged, with the content type JSON.
    pub(crate) async fn post_text(&self, path: &str, body: impl Into<String>) -> Answer {
        let request = self
            .request(Method::POST, path)
            .header(CONTENT_TYPE, "application/json");
        send(request.body(body.into())).await
    }

    /// Loads a contract.
    pub(crate) async fn load(&self, address: &str, executable: &str) -> Answer {
        let body = json!({ "contractAddress": address, "executable": executable });
        self.post("/loadSmartContract", &body).await
    }

    /// Loads a contract and returns what the service says about its executable. While the machine
    /// leaves the executable too little processor time to judge it, the service answers that there
    /// is no capacity, and asks to repeat the load: this does so.
    pub(crate) async fn judge(&self, address: &str, executable: &str) -> Answer {
        wait::until("a load that is judged", JUDGED_WITHIN, async || {
            let answer = self.load(address, executable).await;
            if answer.status != 503 {
                return Some(answer);
            }
            assert_eq!(answer.json()["code"], "no_capacity", "{answer:?}");
            assert!(answer.headers.contains_key(RETRY_AFTER), "{answer:?}");
            None
        })
        .await
    }

    /// Loads a contract, which must succeed.
    pub(crate) async fn must_load(&self, address: &str, executable: &str) {
        self.load(address, executable).await.is_no_content();
    }

    /// Unloads a contract.
    pub(crate) async fn unload(&self, address: &str) -> Answer {
        self.post(
            "/unloadSmartContract",
            &json!({ "contractAddress": address }),
        )
        .await
    }

    /// Calls a method with an argument.
    pub(crate) async fn execute(&self, address: &str, method: &str, argument: &Value) -> Answer {
        self.post(&format!("/execute/{address}/{method}"), argument)
            .await
    }

    /// Calls a method without an argument.
    pub(crate) async fn call(&self, address: &str, method: &str) -> Answer {
        send(self.request(Method::POST, &format!("/execute/{address}/{method}"))).await
    }

    /// `GET /contracts`, all pages, which must succeed.
    pub(crate) async fn contracts(&self) -> Vec<Value> {
        let (mut contracts, mut path) = (Vec::new(), Some("/contracts?limit=1000".to_owned()));
        while let Some(page) = path {
            let answer = self.get(&page).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            let listed = answer.json();
            let listed = listed.as_array();
            contracts.extend_from_slice(listed.expect("the list of contracts is an array"));
            path = answer.next_page();
        }
        contracts
    }

    /// `GET /contracts/{address}`, which must succeed.
    pub(crate) async fn contract(&self, address: &str) -> Value {
        let answer = self.get(&format!("/contracts/{address}")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    }

    /// `GET /workers`, which must succeed.
    pub(crate) async fn workers(&self) -> Vec<Value> {
        self.list("/workers").await
    }

    /// `GET /dead-letters`, which must succeed.
    pub(crate) async fn dead_letters(&self) -> Vec<Value> {
        self.list("/dead-letters").await
    }

    async fn list(&self, path: &str) -> Vec<Value> {
        let answer = self.get(path).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer
            .json()
            .as_array()
            .expect("a list is an array")
            .clone()
    }

    /// What `GET /readyz` says about the farm: `ready`, `degraded` or `unavailable`. None unless
    /// the api answers with 200.
    pub(crate) async fn farm_status(&self) -> Option<String> {
        let answer = try_send(self.request(Method::GET, "/readyz")).await.ok()?;
        let status = (answer.status == 200).then(|| answer.json()["status"].clone());
        status?.as_str().map(str::to_owned)
    }

    /// Asks a worker to drain: to hand over its contracts and to end.
    pub(crate) async fn drain(&self, worker: &str) -> Answer {
        send(self.request(Method::POST, &format!("/workers/{worker}/drain"))).await
    }

    /// The contract's generation, as `GET /contracts/{address}` reports it.
    pub(crate) async fn generation(&self, address: &str) -> u64 {
        let contract = self.contract(address).await;
        contract["generation"]
            .as_u64()
            .expect("a generation is a number")
    }

    /// The worker that owns the contract, if it is assigned.
    pub(crate) async fn owner(&self, address: &str) -> Option<String> {
        self.contract(address).await["host"]
            .as_str()
            .map(str::to_owned)
    }
}

/// Sends a request.
///
/// # Panics
/// When no answer arrives: a request without an answer is always a failure.
pub(crate) async fn send(request: RequestBuilder) -> Answer {
    try_send(request).await.expect("every request is answered")
}

/// Sends a request to an api that may be shutting down.
pub(crate) async fn try_send(request: RequestBuilder) -> Result<Answer, reqwest::Error> {
    let response = request.send().await?;
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    Ok(Answer {
        status,
        headers,
        body: response.text().await?,
    })
}

impl Answer {
    /// The body, which must be JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The result of a call, which must have succeeded.
    #[track_caller]
    pub(crate) fn data(&self) -> Value {
        assert_eq!(self.status, 200, "{self:?}");
        let body = self.json();
        let fields = body.as_object().expect("the answer of a call is an object");
        assert!(
            fields.len() == 1 && fields.contains_key("data"),
            "not only data: {self:?}"
        );
        body["data"].clone()
    }

    /// `ok`, or the error code. A call whose deadline passed has an outcome of its own.
    pub(crate) fn outcome(&self) -> String {
        if self.status == 200 {
            return "ok".to_owned();
        }
        if self.body.contains("No reply arrived before the deadline") {
            return "deadline".to_owned();
        }
        let body = self.json();
        body["code"].as_str().unwrap_or("no code").to_owned()
    }

    /// Whether the answer states that the call was certainly not run.
    pub(crate) fn never_started(&self) -> bool {
        self.status != 200 && self.json()["started"] == false
    }

    /// The path of the next page, from the header `Link`.
    #[track_caller]
    pub(crate) fn next_page(&self) -> Option<String> {
        let link = self.header("link")?;
        let path = link.strip_prefix('<');
        let path = path.and_then(|link| link.strip_suffix(">; rel=\"next\""));
        Some(path.unwrap_or_else(|| panic!("{self:?}")).to_owned())
    }

    /// A header, as text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// `Contract-Generation`
    #[track_caller]
    pub(crate) fn generation(&self) -> u64 {
        let text = self.header("contract-generation");
        text.and_then(|text| text.parse().ok())
            .unwrap_or_else(|| panic!("none in {self:?}"))
    }

    /// Checks that a request without a result succeeded (status 204).
    #[track_caller]
    pub(crate) fn is_no_content(&self) {
        assert_eq!((self.status, self.body.as_str()), (204, ""), "{self:?}");
    }

    /// Checks the form that every error has, and returns the error's body.
    #[track_caller]
    pub(crate) fn error(&self, status: u16, code: &str) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(
            self.header(CONTENT_TYPE.as_str()),
            Some("application/json"),
            "{self:?}"
        );
        let body = self.json();
        assert_eq!(body["code"], code, "{self:?}");
        assert!(
            body["error"].as_str().is_some_and(|text| text.len() > 3),
            "{self:?}"
        );
        assert!(
            body["requestId"].as_str().is_some_and(|id| !id.is_empty()),
            "{self:?}"
        );
        assert_eq!(
            body["requestId"].as_str(),
            self.header("x-request-id"),
            "{self:?}"
        );
        assert!(status == 400 || body.get("fields").is_none(), "{self:?}");
        if status == 503 {
            let seconds = self
                .header(RETRY_AFTER.as_str())
                .and_then(|text| text.parse().ok());
            assert!(seconds.is_some_and(|seconds: u32| seconds > 0), "{self:?}");
        }
        body
    }

    /// Checks that this is an error, and returns its text.
    #[track_caller]
    pub(crate) fn error_text(&self, status: u16, code: &str) -> String {
        let body = self.error(status, code);
        body["error"]
            .as_str()
            .expect("checked to be text")
            .to_owned()
    }
}
