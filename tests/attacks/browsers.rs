//! Web pages that try to use the api through the browser of a person on its machine.
//!
//! Each attack is run twice: against an api as it is by default, and against one that permits the
//! attacker's origin, which shows that the attack would be noticed if it succeeded.

use std::time::{Duration, Instant};

use axum::Router;
use axum::response::Html;
use axum::routing::get;
use chromiumoxide::Page;
use chromiumoxide::handler::HandlerConfig;
use serde_json::Value;
use tokio::net::TcpListener;

use crate::report::{Entry, Report};
use crate::support::browser::{Browser, found};
use crate::support::client::Client;
use crate::support::farm::Farm;
use crate::support::wait::{self, DEFAULT_LIMIT};

/// All names of the test lead to this machine, as those of a rebinding attacker do.
const NAMES: &str = "--host-resolver-rules=MAP *.test 127.0.0.1, MAP *.localhost 127.0.0.1, \
    MAP * ~NOTFOUND, EXCLUDE 127.0.0.1";

/// How long a request that succeeds may take to show its effect.
const EFFECT: Duration = Duration::from_secs(2);

/// A request as a script sends it without asking first: without a content type.
const LOAD: &str = "fetch('API/loadSmartContract', { method: 'POST', mode: 'no-cors', body: new Blob(\
    [JSON.stringify({ contractAddress: 'planted', executable: '{ a: () => 1 }' })]) })";

/// The attacker's site and the browser that shows it.
struct Stage {
    farm: Farm,
    browser: Browser,
    site: String,
}

/// Runs the group.
pub(crate) async fn run() -> Report {
    let site = TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port is free");
    let port = site.local_addr().expect("it is bound").port();
    let page = Router::new().route("/", get(|| async { Html("<title>a site</title>") }));
    let serving = tokio::spawn(async move { axum::serve(site, page).await });
    let site = format!("http://evil.test:{port}");

    let mut farm = Farm::builder().start().await;
    farm.spawn_api(&[("CORS_ORIGINS", &site)]);
    let permissive = farm.clients[1].clone();
    wait::until_true("the second api to serve", DEFAULT_LIMIT, async || {
        let asked = permissive.request(reqwest::Method::GET, "/readyz");
        asked
            .send()
            .await
            .is_ok_and(|answer| answer.status() == 200)
    })
    .await;
    let browser = Browser::start_with(&[NAMES.to_owned()], HandlerConfig::default()).await;
    let stage = Stage {
        farm,
        browser,
        site,
    };
    let mut report = Report::default();
    stage.loads(&mut report).await;
    stage.reads(&mut report).await;
    stage.rebinds(&mut report).await;
    // Its control ends the worker.
    stage.drains(&mut report).await;
    stage.browser.stop().await;
    stage.farm.stop().await;
    serving.abort();
    report
}

impl Stage {
    /// A script of another site loads a contract.
    async fn loads(&self, report: &mut Report) {
        for (name, script) in [
            ("a page of another site loads a contract", LOAD.to_owned()),
            ("a page without an origin loads a contract", framed(LOAD)),
        ] {
            let case = self.loaded_by(&self.farm.clients[0], &script);
            // A page without an origin cannot be permitted, so the control is the page around it.
            let control = self.loaded_by(&self.farm.clients[1], LOAD);
            note(report, name, case.await, control.await);
        }
    }

    async fn loaded_by(&self, api: &Client, script: &str) -> (bool, String) {
        let page = self.browser.open(&self.site).await;
        run_script(&page, &script.replace("API", &api.url(""))).await;
        let is_loaded =
            has_effect(async || api.get("/contracts/planted").await.status == 200).await;
        api.unload("planted").await.is_no_content();
        page.close().await.expect("a page can be closed");
        (is_loaded, format!("the contract is loaded: {is_loaded}"))
    }

    /// A script of another site reads the list of contracts.
    async fn reads(&self, report: &mut Report) {
        let read_from = async |api: &Client| {
            let page = self.browser.open(&self.site).await;
            let script = "fetch('API/contracts').then(answer => answer.status)";
            let seen = run_script(&page, &script.replace("API", &api.url(""))).await;
            page.close().await.expect("a page can be closed");
            (seen == 200, seen.to_string())
        };
        let case = read_from(&self.farm.clients[0]).await;
        let control = read_from(&self.farm.clients[1]).await;
        note(
            report,
            "a page of another site reads the contracts",
            case,
            control,
        );
    }

    /// A site whose name leads to this machine by now has the origin of the api for the browser.
    async fn rebinds(&self, report: &mut Report) {
        let port = self.farm.clients[0].port();
        let read_as = async |host: &str| {
            let page = self
                .browser
                .open(&format!("http://{host}:{port}/healthz"))
                .await;
            let seen = run_script(&page, "fetch('/contracts').then(answer => answer.status)").await;
            page.close().await.expect("a page can be closed");
            (seen == 200, seen.to_string())
        };
        let case = read_as("rebound.test").await;
        let control = read_as("own.localhost").await;
        note(
            report,
            "a name that is bound to this machine later",
            case,
            control,
        );
    }

    /// A plain form of another site drains a worker.
    async fn drains(&self, report: &mut Report) {
        let worker = &self.farm.client().workers().await[0]["id"];
        let worker = worker.as_str().expect("an id is text");
        let drained_by = async |api: &Client| {
            let page = self.browser.open(&self.site).await;
            let script = format!(
                "const form = document.body.appendChild(document.createElement('form')); \
                form.method = 'post'; form.action = '{}'; form.submit(); 1",
                api.url(&format!("/workers/{worker}/drain"))
            );
            page.evaluate(script)
                .await
                .expect("a form can be submitted");
            let is_drained = has_effect(async || {
                let workers = api.workers().await;
                workers.iter().all(|worker| worker["state"] != "ready")
            });
            let is_drained = is_drained.await;
            (is_drained, format!("the worker drains: {is_drained}"))
        };
        let case = drained_by(&self.farm.clients[0]).await;
        let control = drained_by(&self.farm.clients[1]).await;
        note(
            report,
            "a form of another site drains a worker",
            case,
            control,
        );
    }
}

/// The script in a frame with an opaque origin.
fn framed(script: &str) -> String {
    let document = format!("<script>{script}</script>").replace('`', "\\`");
    let document = document.replace("</", "<\\/");
    format!(
        "new Promise(done => {{ const frame = document.createElement('iframe'); \
        frame.sandbox = 'allow-scripts'; frame.srcdoc = `{document}`; frame.onload = () => done(1); \
        document.body.append(frame); }})"
    )
}

/// Runs a script, and returns what its promise is fulfilled with or its error.
async fn run_script(page: &Page, script: &str) -> Value {
    let script = format!(
        "window.outcome = null; {script}.then(value => window.outcome = value ?? 'done', \
        error => window.outcome = String(error)); 1"
    );
    page.evaluate(script).await.expect("a script can be run");
    found(page, "window.outcome").await
}

/// Whether a request takes effect within its time.
async fn has_effect(effect: impl AsyncFn() -> bool) -> bool {
    let begun = Instant::now();
    loop {
        if effect().await {
            return true;
        }
        if begun.elapsed() > EFFECT {
            return false;
        }
        wait::pass(Duration::from_millis(50)).await;
    }
}

/// Records a case, which must fail, and its control, which must succeed.
fn note(
    report: &mut Report,
    name: &str,
    (succeeded, seen): (bool, String),
    (is_noticed, control): (bool, String),
) {
    let control = if is_noticed {
        Ok(control)
    } else {
        Err(control)
    };
    let outcome = if succeeded { Err(seen) } else { Ok(seen) };
    eprintln!("  E6 {name}: {outcome:?}, control {control:?}");
    report.entries.push(Entry {
        row: "E6",
        name: name.to_owned(),
        outcome,
        control: Some(control),
        time: Duration::ZERO,
    });
}
