//! Contracts may give their declarations any name, whatever the page has under it.

use crate::driver::{Contract, run};

/// All names that the page's global object has, which are names of variables, too.
async fn names_of_the_page() -> Vec<String> {
    let mut contract = Contract::load(
        "{ names: () => Object.getOwnPropertyNames(globalThis)
            .filter((name) => /^[\\p{ID_Start}$_][\\p{ID_Continue}$]*$/u.test(name)) }",
    )
    .await;
    let names = contract.get("names").await.unwrap();
    contract.close().await;
    let names: Vec<String> = serde_json::from_str(&names).unwrap();
    for name in ["status", "name", "top", "location", "document", "undefined"] {
        assert!(names.iter().any(|found| found == name), "{name}");
    }
    names
}

/// A contract that declares every name, with one endpoint for each.
fn contract(names: &[String], declare: &str, endpoint: &str) -> String {
    let of_each = |pattern: &str, separator: &str| {
        let each: Vec<_> = names
            .iter()
            .map(|name| pattern.replace('N', name))
            .collect();
        each.join(separator)
    };
    let (declared, endpoints) = (of_each(declare, ";\n"), of_each(endpoint, ",\n"));
    format!("{declared};\nfunction init() {{ return {{ {endpoints} }} }}")
}

#[test]
fn variables_may_have_the_names_of_the_page() {
    run(async {
        let names = names_of_the_page().await;
        for declare in ["var N = 0", "let N = 0", "var N; N = 0"] {
            let source = contract(&names, declare, "N: (n) => { N += n; return N }");
            let mut contract = Contract::load(&source).await;
            for name in &names {
                for expected in ["5", "10"] {
                    let sum = contract.call(name, "5").await;
                    assert_eq!(sum.as_deref(), Ok(expected), "{declare}: {name}");
                }
            }
            contract.close().await;
        }
    });
}

#[test]
fn constants_functions_and_classes_may_have_the_names_of_the_page() {
    run(async {
        let mut names = names_of_the_page().await;
        for (declare, endpoint) in [
            ("const N = 7", "N: () => N"),
            ("function N() { return 7 }", "N: () => N()"),
            ("class N { static x = 7 }", "N: () => N.x"),
        ] {
            // The language itself allows no class of this name.
            if declare.starts_with("class") {
                names.retain(|name| name != "eval");
            }
            let mut contract = Contract::load(&contract(&names, declare, endpoint)).await;
            for name in &names {
                let found = contract.get(name).await;
                assert_eq!(found.as_deref(), Ok("7"), "{declare}: {name}");
            }
            contract.close().await;
        }
    });
}

#[test]
fn an_endpoint_may_have_the_name_of_a_variable_of_the_page() {
    run(async {
        let source = "var status = 0; function inc(n) { status += n; return status }
            function init() { return { inc, status: () => status } }";
        let mut contract = Contract::load(source).await;
        assert_eq!(contract.call("inc", "5").await.as_deref(), Ok("5"));
        assert_eq!(contract.call("inc", "5").await.as_deref(), Ok("10"));
        assert_eq!(contract.get("status").await.as_deref(), Ok("10"));
        contract.close().await;
    });
}
