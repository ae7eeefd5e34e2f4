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

/// The names for which the declaration or its use goes wrong: one contract declares all of them.
/// Its endpoint uses only the language's own syntax, because the names of all built-in objects are
/// taken.
async fn wrong(names: &[String], declare: &str, use_it: &str) -> String {
    let of_each = |pattern: &str, separator: &str| {
        let each: Vec<_> = names
            .iter()
            .map(|name| pattern.replace('N', name))
            .collect();
        each.join(separator)
    };
    let (declared, uses) = (of_each(declare, ";\n"), of_each(use_it, ",\n"));
    let source = format!(
        "{declared};\nconst uses = {{ {uses} }};\nfunction init() {{ return {{ wrong() {{
            const found = [];
            for (const one in uses) {{
                const [first, second] = [uses[one](5), uses[one](5)];
                if (first !== 5 || second !== 10) found[found.length] = [one, first, second];
            }}
            return found;
        }} }} }}"
    );
    let mut contract = Contract::load(&source).await;
    let found = contract.get("wrong").await.unwrap();
    contract.close().await;
    found
}

#[test]
fn variables_may_have_the_names_of_the_page() {
    run(async {
        let names = names_of_the_page().await;
        for declare in ["var N = 0", "let N = 0", "var N; N = 0"] {
            let found = wrong(&names, declare, "N: (n) => { N += n; return N }").await;
            assert_eq!(found, "[]", "{declare}");
        }
    });
}

#[test]
fn constants_functions_and_classes_may_have_the_names_of_the_page() {
    run(async {
        let mut names = names_of_the_page().await;
        for (declare, use_it) in [
            ("const N = { sum: 0 }", "N: (n) => N.sum += n"),
            (
                "function N(n) { return N.sum = (N.sum || 0) + n }",
                "N: (n) => N(n)",
            ),
            ("class N { static sum = 0 }", "N: (n) => N.sum += n"),
        ] {
            // The language itself allows no class of this name.
            if declare.starts_with("class") {
                names.retain(|name| name != "eval");
            }
            assert_eq!(wrong(&names, declare, use_it).await, "[]", "{declare}");
        }
    });
}

#[test]
fn a_variable_of_the_page_does_not_leak_into_a_contract() {
    run(async {
        let source = "var status = 0; function inc(n) { status += n; return status }
            var name; function init() { return { inc, status: () => status, name: () => typeof name } }";
        let mut contract = Contract::load(source).await;
        assert_eq!(contract.call("inc", "5").await.as_deref(), Ok("5"));
        assert_eq!(contract.call("inc", "5").await.as_deref(), Ok("10"));
        assert_eq!(contract.get("status").await.as_deref(), Ok("10"));
        assert_eq!(contract.get("name").await.as_deref(), Ok("\"undefined\""));
        contract.close().await;
    });
}
