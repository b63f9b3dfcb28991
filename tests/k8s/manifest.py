"""Kubernetes manifests: reads them strictly and holds them against the schemas.

    manifest.py check SCHEMAS FILE     every document is valid; a name, the kinds and versions on stdout
    manifest.py misspell SCHEMAS FILE  every key, misspelt one at a time, makes it invalid
    manifest.py same FILE FILE         equal documents
    manifest.py get FILE KIND PATH     the value at PATH ("spec/slotsPerWorker") as JSON
    manifest.py overlay DIR            what kustomize would build from DIR, as YAML

SCHEMAS is the package of requirements.txt, which carries the Kubernetes OpenAPI schemas of many versions as JSON
schemas, with unknown keys refused. The fields of an MPIJob are in mpijob-schema.json.
"""
import copy
import json
import os
import re
import sys
import zipfile

import jsonschema
import yaml

VERSIONS = ("v1.27.0", "v1.32.0", "v1.37.0")
HERE = os.path.dirname(os.path.abspath(__file__))
# Keys of these are a user's own.
FREE = {"labels", "matchLabels", "annotations", "requests", "limits", "data", "nodeSelector"}


class Invalid(Exception):
    pass


class Loader(yaml.SafeLoader):
    """Refuses a repeated key, which PyYAML would pass over and the API server would not."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise Invalid(f"line {node.start_mark.line + 1}: {key} twice")
            if not isinstance(key, str):
                raise Invalid(f"line {node.start_mark.line + 1}: the key {key!r} is no text")
        return super().construct_mapping(node, deep)


def load(path):
    with open(path, encoding="utf-8") as file:
        return [document for document in yaml.load_all(file, Loader) if document is not None]


# --- Schemas ---------------------------------------------------------------------------------


def strict(schema):
    """Unknown keys are errors wherever a schema says which there are."""
    if isinstance(schema, dict):
        schema = {key: strict(value) for key, value in schema.items()}
        if "properties" in schema:
            schema.setdefault("additionalProperties", False)
    return schema


class Schemas:
    def __init__(self, package):
        self.mpijob = strict(json.load(open(os.path.join(HERE, "mpijob-schema.json")))["spec"])
        self.mpijob_validator = jsonschema.Draft202012Validator(self.mpijob)
        self.definitions = {}
        self.validators = {}
        with zipfile.ZipFile(package) as archive:
            for version in VERSIONS:
                name = f"kubernetes_validate/kubernetes-json-schema/{version}-local-strict/_definitions.json"
                self.definitions[version] = json.loads(archive.read(name))["$defs"]

    def validator(self, version, name):
        if (version, name) not in self.validators:
            definitions = self.definitions[version]
            schema = {"$defs": definitions, "$ref": "#/$defs/" + name}
            self.validators[version, name] = jsonschema.Draft202012Validator(schema)
        return self.validators[version, name]


def hold(validator, value, where):
    for error in validator.iter_errors(value):
        place = "/".join([where, *map(str, error.absolute_path)])
        raise Invalid(f"{place}: {error.message[:300]}")


def core(schemas, name, value, where):
    for version in VERSIONS:
        hold(schemas.validator(version, name), value, f"{where} ({version})")


# --- What the operator checks in code --------------------------------------------------------


def want(condition, what):
    if not condition:
        raise Invalid(what)


def check_mpijob(schemas, job):
    want(set(job) == {"apiVersion", "kind", "metadata", "spec"}, f"MPIJob: keys {sorted(job)}")
    want(job["apiVersion"] == "kubeflow.org/v2beta1", f"MPIJob: apiVersion {job['apiVersion']}")
    core(schemas, "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta", job["metadata"], "metadata")
    spec = job["spec"]
    hold(schemas.mpijob_validator, spec, "spec")
    replicas = spec["mpiReplicaSpecs"]
    want(set(replicas) == {"Launcher", "Worker"}, f"mpiReplicaSpecs: {sorted(replicas)}")
    want(replicas["Launcher"].get("replicas", 1) == 1, "Launcher: replicas, want 1")
    want(replicas["Worker"].get("replicas", 0) >= 1, "Worker: replicas, want 1 or more")
    name = f"{job['metadata']['name']}-worker-{replicas['Worker']['replicas'] - 1}"
    want(re.fullmatch("[a-z]([-a-z0-9]*[a-z0-9])?", name) and len(name) <= 63, f"{name} is no host name")
    for role, replica in replicas.items():
        want("template" in replica, f"{role}: no template")
        core(schemas, "io.k8s.api.core.v1.PodTemplateSpec", replica["template"], role)
        check_pod(role, replica["template"]["spec"])


def check_pod(role, pod):
    want("restartPolicy" not in pod, f"{role}: restartPolicy in the pod, want it beside replicas")
    check_mounts(role, pod)


def check_mounts(role, pod):
    volumes = [volume["name"] for volume in pod["volumes"]]
    want(len(set(volumes)) == len(volumes), f"{role}: a volume twice")
    for container in pod["containers"]:
        mounts = [mount["name"] for mount in container["volumeMounts"]]
        want(sorted(mounts) == sorted(volumes), f"{role}: volumes {volumes}, mounted {mounts}")


def check(schemas, documents):
    for document in documents:
        want(isinstance(document, dict) and "kind" in document, "a document without a kind")
        kind = document["kind"]
        if kind == "MPIJob":
            check_mpijob(schemas, document)
        else:
            want(document.get("apiVersion") == "v1", f"{kind}: apiVersion {document.get('apiVersion')}")
            want(kind in ("ConfigMap", "PersistentVolumeClaim", "Pod"), f"kind {kind}")
            core(schemas, "io.k8s.api.core.v1." + kind, document, kind)
        if kind == "Pod":
            check_mounts(kind, document["spec"])
    check_references(documents)


def check_references(documents):
    """The pods mount the ConfigMap that stands beside them, in the same namespace."""
    maps = {document["metadata"]["name"] for document in documents if document["kind"] == "ConfigMap"}
    spaces = {document["metadata"].get("namespace") for document in documents}
    want(len(spaces) == 1, f"namespaces {spaces}")
    for job in documents:
        for role, replica in job.get("spec", {}).get("mpiReplicaSpecs", {}).items():
            for volume in replica["template"]["spec"]["volumes"]:
                name = volume.get("configMap", {}).get("name")
                want(name is None or name in maps, f"{role}: no ConfigMap {name}")


# --- Misspelling -----------------------------------------------------------------------------


def key_paths(value, path=()):
    if isinstance(value, dict):
        for key, below in value.items():
            if not path or path[-1] not in FREE:
                yield path + (key,)
            yield from key_paths(below, path + (key,))
    elif isinstance(value, list):
        for i, below in enumerate(value):
            yield from key_paths(below, path + (i,))


def misspell(documents, path):
    documents = copy.deepcopy(documents)
    at = documents
    for step in path[:-1]:
        at = at[step]
    at[path[-1] + "x"] = at.pop(path[-1])
    return documents


def misspell_all(schemas, documents):
    count = 0
    for path in key_paths(documents):
        count += 1
        try:
            check(schemas, misspell(documents, path))
        except Invalid:
            continue
        raise Invalid(f"misspelt and not noticed: {'/'.join(map(str, path))}")
    return count


# --- Kustomize: resources and JSON patches, which is all that the overlays here use ----------


def pointer(text):
    return [part.replace("~1", "/").replace("~0", "~") for part in text.split("/")[1:]]


def apply_patch(document, patch):
    at = document
    *parents, last = pointer(patch["path"])
    for step in parents:
        at = at[int(step) if isinstance(at, list) else step]
    want(last in at, f"{patch['path']} is not there")
    if patch["op"] == "remove":
        del at[last]
    elif patch["op"] == "replace":
        at[last] = patch["value"]
    else:
        raise Invalid(f"op {patch['op']} is not understood")


def overlay(folder):
    (kustomization,) = load(os.path.join(folder, "kustomization.yaml"))
    want(set(kustomization) <= {"apiVersion", "kind", "resources", "patches"}, f"keys {list(kustomization)}")
    documents = []
    for resource in kustomization["resources"]:
        path = os.path.join(folder, resource)
        documents += overlay(path) if os.path.isdir(path) else load(path)
    for entry in kustomization.get("patches", []):
        target = entry["target"]
        chosen = [d for d in documents if d["kind"] == target["kind"] and d["metadata"]["name"] == target["name"]]
        want(len(chosen) == 1, f"{target} is {len(chosen)} resources")
        for patch in yaml.load(entry["patch"], Loader):
            apply_patch(chosen[0], patch)
    return documents


# --- Commands --------------------------------------------------------------------------------


def by_kind(documents):
    return sorted(documents, key=lambda document: document["kind"])


def get(path, kind, place):
    (value,) = [document for document in load(path) if document["kind"] == kind]
    for step in place.split("/"):
        value = value[int(step) if isinstance(value, list) else step]
    return value


def run(command, *arguments):
    if command == "check":
        documents = load(arguments[1])
        check(Schemas(arguments[0]), documents)
        print(f"{' and '.join(document['kind'] for document in documents)}: valid for {', '.join(VERSIONS)}")
    elif command == "misspell":
        documents = load(arguments[1])
        schemas = Schemas(arguments[0])
        check(schemas, documents)
        print(f"{misspell_all(schemas, documents)} keys misspelt, each refused")
    elif command == "same":
        first, second = (by_kind(load(path)) for path in arguments)
        want(first == second, "they differ")
    elif command == "get":
        print(json.dumps(get(*arguments), ensure_ascii=False))
    elif command == "overlay":
        yaml.safe_dump_all(overlay(*arguments), sys.stdout)
    else:
        raise Invalid(f"{command} is no command")


if __name__ == "__main__":
    try:
        run(*sys.argv[1:])
    except (Invalid, yaml.YAMLError) as error:
        sys.exit(f"{sys.argv[-1]}: {error}")
