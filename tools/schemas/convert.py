#!/usr/bin/env python3
"""Writes JSON schemas for kubeconform: python3 convert.py SWAGGER.json CRDS.yaml… FOLDER.

Kubernetes' own kinds come from its OpenAPI description, others from their CustomResourceDefinitions. Strict: what is not described is refused. The definitions
themselves go to FOLDER/definitions, to be installed.
"""

import json
import pathlib
import sys

import yaml

# What the chart renders for an operator.
CUSTOM = {"PrometheusRule", "ServiceMonitor", "VMRule", "VMServiceScrape"}

# Kubernetes' own words for values that are written as text or as number.
EITHER = {
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": ["string", "integer"],
    "io.k8s.apimachinery.pkg.api.resource.Quantity": ["string", "number"],
}


def strict(schema):
    """The same schema, refusing unknown fields wherever fields are described."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {key: strict(part) for key, part in schema.items()}
    if schema.get("x-kubernetes-int-or-string") is True:
        return {"type": ["string", "integer"]}
    if isinstance(schema.get("properties"), dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
        schema.setdefault("additionalProperties", False)
    return schema


def name(kind, group, version):
    """The file's name, as kubeconform looks for it."""
    parts = [kind, group.split(".")[0], version] if group else [kind, version]
    return "-".join(parts).lower() + ".json"


def of_kubernetes(swagger):
    definitions = strict(json.loads(pathlib.Path(swagger).read_text())["definitions"])
    for known, types in EITHER.items():
        definitions[known] = {"type": types}
    for key, schema in definitions.items():
        for kind in schema.get("x-kubernetes-group-version-kind", []):
            if {"apiVersion", "kind", "metadata"} <= schema.get("properties", {}).keys():
                document = {"$ref": f"#/definitions/{key}", "definitions": reached(key, definitions)}
                yield name(kind["kind"], kind["group"], kind["version"]), document


def reached(root, definitions):
    """The definitions that one needs, itself among them."""
    found, waiting = {}, [root]
    while waiting:
        key = waiting.pop()
        if key not in found:
            found[key] = definitions[key]
            waiting.extend(references(definitions[key]))
    return found


def references(schema):
    if isinstance(schema, list):
        for part in schema:
            yield from references(part)
    elif isinstance(schema, dict):
        for key, part in schema.items():
            if key == "$ref" and isinstance(part, str):
                yield part.removeprefix("#/definitions/")
            else:
                yield from references(part)


def definitions(path):
    """The CustomResourceDefinitions in a file, of which it may have many."""
    for definition in yaml.load_all(pathlib.Path(path).read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        if definition["spec"]["names"]["kind"] in CUSTOM:
            yield definition


def of_definition(definition):
    spec = definition["spec"]
    for version in spec["versions"]:
        schema = strict(version["schema"]["openAPIV3Schema"])
        schema["properties"].update({"metadata": {"type": "object"}, "apiVersion": {"type": "string"}, "kind": {"type": "string"}})
        yield name(spec["names"]["kind"], spec["group"], version["name"]), schema


def main():
    swagger, *files, folder = sys.argv[1:]
    folder = pathlib.Path(folder)
    (folder / "definitions").mkdir(parents=True, exist_ok=True)
    found = [definition for file in files for definition in definitions(file)]
    for source in [of_kubernetes(swagger), *map(of_definition, found)]:
        for file, schema in source:
            (folder / file).write_text(json.dumps(schema))
    for definition in found:
        (folder / "definitions" / f"{definition['spec']['names']['plural']}.yaml").write_text(yaml.safe_dump(definition))


main()
