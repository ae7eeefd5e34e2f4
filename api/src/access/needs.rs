//! What each route needs, in one list: the layer around the routes applies it, and the
//! `OpenAPI` document shows it. A route that is not listed is refused to everybody.

use http::Method;
use utoipa::Modify;
use utoipa::openapi::path::Operation;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Components, OpenApi, PathItem};

use super::scope::Permission;

/// What a route needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// Nothing.
    Nothing,
    /// A permission. Where it depends on a contract's address, the handler checks it again.
    Scope(Permission),
    /// A permission of the default tenant: the request is about the farm that all tenants share.
    OfFarm(Permission),
}

use Need::{Nothing, OfFarm, Scope};
use Permission::{
    ContractsExecute, ContractsLoad, ContractsRead, ContractsUnload, FarmOperate, FarmRead,
    KeysManage, LogsRead,
};

/// The busiest come first, because they are searched in this order.
const NEEDS: [(&str, &str, Need); 31] = [
    (
        "POST",
        "/execute/{contractAddress}/{method}",
        Scope(ContractsExecute),
    ),
    ("POST", "/loadSmartContract", Scope(ContractsLoad)),
    ("POST", "/unloadSmartContract", Scope(ContractsUnload)),
    ("GET", "/contracts", Scope(ContractsRead)),
    ("GET", "/contracts/{contractAddress}", Scope(ContractsRead)),
    (
        "GET",
        "/contracts/{contractAddress}/openapi.json",
        Scope(ContractsRead),
    ),
    ("GET", "/contracts/{contractAddress}/logs", Scope(LogsRead)),
    ("GET", "/workers", OfFarm(FarmRead)),
    ("POST", "/workers/{id}/drain", OfFarm(FarmOperate)),
    ("GET", "/dead-letters", Scope(FarmRead)),
    ("DELETE", "/dead-letters/{id}", Scope(FarmOperate)),
    ("GET", "/keys", Scope(KeysManage)),
    ("POST", "/keys", Scope(KeysManage)),
    ("GET", "/keys/{id}", Scope(KeysManage)),
    ("DELETE", "/keys/{id}", Scope(KeysManage)),
    ("GET", "/tenants", OfFarm(KeysManage)),
    ("GET", "/tenants/{id}", OfFarm(KeysManage)),
    ("PUT", "/tenants/{id}", OfFarm(KeysManage)),
    ("DELETE", "/tenants/{id}", OfFarm(KeysManage)),
    ("GET", "/usage", Scope(FarmRead)),
    ("GET", "/metrics", OfFarm(FarmRead)),
    ("GET", "/healthz", Nothing),
    ("GET", "/readyz", Nothing),
    ("GET", "/", Nothing),
    ("GET", "/docs", Nothing),
    ("GET", "/docs/", Nothing),
    ("GET", "/docs/{*file}", Nothing),
    ("GET", "/openapi.json", Nothing),
    ("GET", "/documentation", Nothing),
    ("GET", "/documentation/", Nothing),
    ("GET", "/documentation/swagger.json", Nothing),
];

/// What a request needs. `None`: nobody may send it.
pub(crate) fn need(method: &Method, route: Option<&str>) -> Option<Need> {
    let Some(route) = route else {
        return Some(Nothing);
    };
    let method = match method.as_str() {
        "HEAD" => "GET",
        method => method,
    };
    let mut same_route = NEEDS
        .iter()
        .filter(|(_, path, _)| *path == route)
        .peekable();
    same_route.peek()?;
    let needed = same_route.find(|(known, ..)| *known == method);
    // Otherwise the route says that it does not take the method.
    Some(needed.map_or(Nothing, |(.., need)| *need))
}

/// The names of the schemes in the document: keys, and tokens of an identity provider.
const KEY: &str = "key";
const TOKEN: &str = "token";

/// Adds what the routes need to the document.
pub(crate) struct Security;

impl Modify for Security {
    fn modify(&self, document: &mut OpenApi) {
        let names: Vec<_> = Permission::ALL
            .iter()
            .map(|one| format!("`{}`", one.name()))
            .collect();
        let description = format!(
            "A key, `esk_ID_SECRET`. `POST /keys` creates one. Its scopes say what it permits: {}. \
            Those of contracts, calls and logs may end in a glob of addresses: \
            `contracts:execute:pay-*`. A service that is open (`AUTH=off`) needs none.",
            names.join(", ")
        );
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .bearer_format("esk_ID_SECRET")
            .description(Some(description));
        let token = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .bearer_format("JWT")
            .description(Some(
                "A token of the identity provider. Its claim `scope` has the scopes of a key.",
            ));
        document
            .components
            .get_or_insert_with(Components::new)
            .add_security_schemes_from_iter([
                (KEY, SecurityScheme::Http(scheme.build())),
                (TOKEN, SecurityScheme::Http(token.build())),
            ]);
        for (path, item) in &mut document.paths.paths {
            for (method, operation) in operations(item) {
                // An operation without the field is one that nobody has thought of.
                operation.security = need(&method, Some(path)).map(|need| match need {
                    Nothing => Vec::new(),
                    Scope(permission) | OfFarm(permission) => {
                        let by = |scheme| SecurityRequirement::new(scheme, [permission.name()]);
                        vec![by(KEY), by(TOKEN)]
                    }
                });
            }
        }
    }
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = (Method, &mut Operation)> {
    let PathItem {
        get,
        post,
        put,
        delete,
        ..
    } = item;
    let known = [
        (Method::GET, get),
        (Method::POST, post),
        (Method::PUT, put),
        (Method::DELETE, delete),
    ];
    known
        .into_iter()
        .filter_map(|(method, operation)| Some((method, operation.as_mut()?)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use utoipa::OpenApi as _;

    use super::*;
    use crate::openapi::Description;

    /// The routes of the router's source: axum does not list them.
    fn routes() -> BTreeSet<(String, &'static str)> {
        let source = include_str!("../router.rs");
        let calls = source.split(".route(").skip(1);
        calls
            .flat_map(|call| {
                let path = call.split('"').nth(1).unwrap().to_owned();
                let methods = call.split("\n        .").next().unwrap();
                let is_taken = |name: &&str| methods.contains(&format!("{name}("));
                let taken = ["get", "post", "delete", "put", "patch"]
                    .into_iter()
                    .filter(is_taken);
                taken
                    .map(move |method| (path.clone(), method))
                    .collect::<Vec<_>>()
            })
            .collect()
    }

    #[test]
    fn every_route_is_listed() {
        let routes = routes();
        assert!(routes.len() > 15, "{routes:?}");
        for (path, method) in &routes {
            let method = method.to_uppercase();
            assert!(
                NEEDS
                    .iter()
                    .any(|(known, listed, _)| *known == method && listed == path),
                "{method} {path}"
            );
        }
        assert_eq!(
            routes.len(),
            NEEDS.len(),
            "a route is listed that does not exist"
        );
        assert_eq!(need(&Method::GET, Some("/new")), None);
        assert_eq!(
            need(&Method::HEAD, Some("/metrics")),
            Some(OfFarm(FarmRead))
        );
        assert_eq!(need(&Method::PUT, Some("/keys")), Some(Nothing));
    }

    #[test]
    fn every_documented_operation_says_what_it_needs() {
        let mut document = Description::openapi();
        for (path, item) in &mut document.paths.paths {
            for (method, operation) in operations(item) {
                assert!(operation.security.is_some(), "{method} {path}");
            }
        }
    }
}
