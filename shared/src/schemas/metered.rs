//! JSON values as checks see them: each look is charged.

use std::borrow::Cow;

use jsonschema::JsonType;
use jsonschema::json::{Array, Json, Node, NodeIdentity, Object, SerdeJson, cmp, unique};
use serde_json::{Map, Number, Value};

use super::meter::{charge, charge_text};

/// The representation of values that charges for each look.
#[derive(Debug)]
pub(super) struct Metered;

/// A value.
#[derive(Debug, Clone, Copy)]
pub(super) struct MeteredNode<'a>(pub(super) &'a Value);

impl Json for Metered {
    type Node<'a> = MeteredNode<'a>;
    type PreparedKey = String;
    type StringBuffer = ();

    const ACYCLIC: bool = true;

    fn prepare_key(key: &str) -> String {
        key.to_owned()
    }

    fn with_string_node<T>(
        buffer: &mut (),
        name: &str,
        look: impl FnOnce(MeteredNode<'_>) -> T,
    ) -> T {
        SerdeJson::with_string_node(buffer, name, |node| look(MeteredNode(node)))
    }
}

impl<'a> Node<'a, Metered> for MeteredNode<'a> {
    type Object = MeteredObject<'a>;
    type Array = MeteredArray<'a>;
    type Number = &'a Number;

    fn as_object(&self) -> Option<MeteredObject<'a>> {
        charge(1);
        self.0.as_object().map(MeteredObject)
    }

    fn as_array(&self) -> Option<MeteredArray<'a>> {
        charge(1);
        self.0.as_array().map(|list| MeteredArray(list))
    }

    fn as_string(&self) -> Option<Cow<'a, str>> {
        let text = self.0.as_str();
        match text {
            Some(text) => charge_text(text.len()),
            None => charge(1),
        }
        text.map(Cow::Borrowed)
    }

    fn as_number(&self) -> Option<&'a Number> {
        charge(1);
        self.0.as_number()
    }

    fn as_boolean(&self) -> Option<bool> {
        charge(1);
        self.0.as_bool()
    }

    fn is_null(&self) -> bool {
        charge(1);
        self.0.is_null()
    }

    fn json_type(&self) -> JsonType {
        charge(1);
        <&Value as Node<'_, SerdeJson>>::json_type(&self.0)
    }

    fn string_length(&self) -> Option<u64> {
        charge(self.0.as_str().map_or(1, |text| 1 + text.len() / 16));
        <&Value as Node<'_, SerdeJson>>::string_length(&self.0)
    }

    fn equals_value(&self, expected: &Value) -> bool {
        charge(match expected {
            Value::String(text) => 1 + text.len() / 16,
            Value::Array(_) | Value::Object(_) => size(expected),
            _ => 1,
        });
        cmp::equal(self.0, expected)
    }

    /// Charges for all of the value: it may be printed.
    fn to_value(&self) -> Cow<'a, Value> {
        charge(size(self.0));
        Cow::Borrowed(self.0)
    }

    fn identity(&self) -> Option<NodeIdentity> {
        charge(1);
        <&Value as Node<'_, SerdeJson>>::identity(&self.0)
    }
}

/// The members of an object.
pub(super) struct MeteredObject<'a>(&'a Map<String, Value>);

/// Charges for each name: it may be matched with regular expressions.
pub(super) struct Members<'a>(serde_json::map::Iter<'a>);

impl<'a> Iterator for Members<'a> {
    type Item = (&'a str, MeteredNode<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let (name, value) = self.0.next()?;
        charge_text(name.len());
        Some((name, MeteredNode(value)))
    }
}

impl<'a> Object<'a, Metered> for MeteredObject<'a> {
    type Node = MeteredNode<'a>;
    type MemberName = &'a str;
    type MembersIter = Members<'a>;

    fn len(&self) -> usize {
        self.0.len()
    }

    fn get(&self, key: &String) -> Option<MeteredNode<'a>> {
        charge(1);
        self.0.get(key).map(MeteredNode)
    }

    fn members(&self) -> Members<'a> {
        Members(self.0.iter())
    }
}

/// The elements of a list.
pub(super) struct MeteredArray<'a>(&'a [Value]);

/// Charges for each element.
pub(super) struct Elements<'a>(std::slice::Iter<'a, Value>);

impl<'a> Iterator for Elements<'a> {
    type Item = MeteredNode<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        charge(1);
        self.0.next().map(MeteredNode)
    }
}

impl<'a> Array<'a, Metered> for MeteredArray<'a> {
    type Node = MeteredNode<'a>;
    type ElementsIter = Elements<'a>;

    fn len(&self) -> usize {
        self.0.len()
    }

    fn elements(&self) -> Elements<'a> {
        Elements(self.0.iter())
    }

    /// Hashes every value below the elements.
    fn is_unique(&self) -> bool {
        charge(self.0.iter().map(size).sum());
        unique::is_unique(self.0)
    }
}

/// How many values there are in a value, with the price of its texts.
fn size(value: &Value) -> usize {
    charge(1);
    match value {
        Value::String(text) => 4 + text.len() / 16,
        Value::Array(list) => 4 + list.iter().map(size).sum::<usize>(),
        Value::Object(map) => {
            let members = map
                .iter()
                .map(|(name, value)| 8 + name.len() / 16 + size(value));
            4 + members.sum::<usize>()
        }
        _ => 4,
    }
}
