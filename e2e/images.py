#!/usr/bin/env python3
"""Writes container images as docker-archive files from statically linked programs: images.py BIN FOLDER JOB_IMAGE"""

import hashlib
import io
import json
import os
import platform
import sys
import tarfile

BUSYBOX, BASH = "/bin/busybox", "/bin/bash"
APPLETS = "base64 basename cat cp date echo find grep ls mkdir mktemp mv rm sed sh sleep sort tail test tr".split()


def layer(files, folders):
    """One layer with these files (path in the image: path here) and folders that everybody may write."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for folder in folders:
            info = tarfile.TarInfo(folder)
            info.type, info.mode = tarfile.DIRTYPE, 0o1777
            tar.addfile(info)
        for path, source in files.items():
            info = tarfile.TarInfo(path.lstrip("/"))
            info.mode = 0o755
            if source.startswith("-> "):
                info.type, info.linkname = tarfile.SYMTYPE, source[3:]
                tar.addfile(info)
            else:
                info.size = os.path.getsize(source)
                with open(source, "rb") as content:
                    tar.addfile(info, content)
    return out.getvalue()


def write(target, name, files, entrypoint):
    """Writes the image, unless it is newer than everything in it."""
    sources = [source for source in files.values() if not source.startswith("-> ")] + [__file__]
    if os.path.exists(target) and os.path.getmtime(target) > max(map(os.path.getmtime, sources)):
        return
    content = layer(files, ["tmp"])
    config = {
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()],
        "os": "linux",
        "config": {"Entrypoint": entrypoint, "Env": ["PATH=/usr/bin:/bin"]},
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(content).hexdigest()]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    with tarfile.open(target + ".new", "w") as tar:
        for path, data in [
            ("layer.tar", content),
            ("config.json", json.dumps(config).encode()),
            ("manifest.json", json.dumps(manifest).encode()),
        ]:
            info = tarfile.TarInfo(path)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    os.rename(target + ".new", target)


def main():
    """Every image of the cluster."""
    binaries, folder, job_image = sys.argv[1:]
    os.makedirs(folder, exist_ok=True)
    shell = {BUSYBOX: "/usr/bin/busybox", BASH: "/usr/bin/bash-static"}
    shell |= {f"/bin/{applet}": "-> busybox" for applet in APPLETS}
    tools = {f"/usr/bin/{name}": os.path.join(binaries, name) for name in ("kubeadm", "kubectl")}

    def one(name, image, files, entrypoint):
        write(os.path.join(folder, name + ".tar"), image, files, entrypoint)

    one("pause", "meshcert.test/pause:1", {BUSYBOX: "/usr/bin/busybox"}, [BUSYBOX, "tail", "-f", "/dev/null"])
    one("job", job_image, shell | tools, [BASH])
    for name in ("etcd", "kube-apiserver"):
        one(name, f"meshcert.test/{name}:1", {f"/usr/bin/{name}": os.path.join(binaries, name)}, [f"/usr/bin/{name}"])


if __name__ == "__main__":
    main()
