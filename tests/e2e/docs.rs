//! `/docs`: the interface in a browser, as a person reads and tries it.

use chromiumoxide::Page;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::browser::{Browser, click, found, save_screenshot};
use crate::support::client::send;
use crate::support::farm::Farm;

/// Opens an operation, runs its own example, and returns status and body of the answer.
async fn try_out(page: &Page, operation: &str) -> (String, String) {
    let block = format!("#operations-Contracts-{operation}");
    click(page, &format!("{block} .opblock-summary-control")).await;
    click(page, &format!("{block} .try-out__btn")).await;
    click(page, &format!("{block} .execute")).await;
    let text = |selector: &str| {
        format!("document.querySelector('{block} .live-responses-table {selector}')?.innerText")
    };
    let status = found(page, &text("tbody .response-col_status")).await;
    let body = page.evaluate(text(".highlight-code code")).await;
    let body = body.expect("an expression can be evaluated");
    let body = body.value().and_then(Value::as_str).unwrap_or_default();
    (
        status.as_str().unwrap_or_default().trim().to_owned(),
        body.to_owned(),
    )
}

#[tokio::test]
async fn the_examples_work_when_tried() {
    let farm = Farm::start().await;
    let browser = Browser::start().await;
    let page = browser.open(&farm.client().url("/docs")).await;

    let (status, _) = try_out(&page, "load").await;
    assert_eq!(status, "204");
    let (status, body) = try_out(&page, "execute").await;
    assert_eq!(status, "200", "{body}");
    let body: Value = serde_json::from_str(&body).expect("an answer is JSON");
    assert_eq!(body, json!({ "data": 3 }));
    save_screenshot(&page, "docs").await;

    // The page loaded every resource from the api itself.
    let sources = "performance.getEntriesByType('resource').map(entry => entry.name)";
    let sources = found(&page, sources).await;
    let sources = sources.as_array().expect("a list");
    assert!(sources.len() > 3, "{sources:?}");
    let own = farm.client().url("/");
    let foreign = |source: &&Value| !source.as_str().is_some_and(|url| url.starts_with(&own));
    assert_eq!(sources.iter().find(foreign), None);
    browser.stop().await;
    farm.stop().await;
}

#[tokio::test]
async fn the_description_is_also_served_at_the_original_path() {
    let farm = Farm::builder().workers(0).start().await;
    let client = farm.client();
    let description = client.get("/openapi.json").await;
    assert_eq!(description.status, 200);
    let json = description.json();
    assert!(
        json["openapi"]
            .as_str()
            .is_some_and(|version| version.starts_with("3.1."))
    );
    assert!(json["paths"]["/loadSmartContract"]["post"].is_object());
    let original = client.get("/documentation/swagger.json").await;
    assert_eq!(original.json(), json);
    farm.stop_ignoring_keys().await;
}

/// An unreadable part of a path is reported by its name in the description of the interface.
#[tokio::test]
async fn an_unreadable_path_parameter_is_named() {
    let farm = Farm::builder().workers(0).start().await;
    let client = farm.client();
    let description = client.get("/openapi.json").await.json();
    for (method, path, tried) in [
        (
            Method::GET,
            "/contracts/{contractAddress}",
            "/contracts/%ff",
        ),
        (
            Method::POST,
            "/execute/{contractAddress}/{method}",
            "/execute/%ff/add",
        ),
        (
            Method::POST,
            "/execute/{contractAddress}/{method}",
            "/execute/abcd/%ff",
        ),
        (Method::POST, "/workers/{id}/drain", "/workers/%ff/drain"),
        (Method::DELETE, "/dead-letters/{id}", "/dead-letters/%ff"),
    ] {
        let answer = send(client.request(method.clone(), tried)).await;
        let body = answer.error(400, "invalid_request");
        let blamed = body["fields"].as_object().expect("fields are named");
        let part = path
            .split('/')
            .zip(tried.split('/'))
            .find(|(_, tried)| *tried == "%ff");
        let name = part.expect("one part is wrong").0.trim_matches(['{', '}']);
        assert_eq!(blamed.keys().collect::<Vec<_>>(), [name], "{tried}");
        let operation = &description["paths"][path][method.as_str().to_lowercase()];
        let description = operation["responses"]["400"].to_string();
        // For calls, the description's example is another failure.
        assert!(
            path.starts_with("/execute/") || description.contains(name),
            "{path}: {description}"
        );
    }
    farm.stop_ignoring_keys().await;
}
