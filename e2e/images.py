#!/usr/bin/env python3
"""Writes container images as docker-archive files from statically linked programs: images.py BIN FOLDER JOB_IMAGE [MESHCERT]"""

import hashlib
import io
import json
import os
import re
import subprocess
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


def write(target, name, files, entrypoint, user="0"):
    """Writes the image, unless it is newer than everything in it."""
    sources = [source for source in files.values() if not source.startswith("-> ")] + [__file__]
    if os.path.exists(target) and os.path.getmtime(target) > max(map(os.path.getmtime, sources)):
        return
    content = layer(files, ["tmp"])
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Entrypoint": entrypoint, "User": user, "Env": ["PATH=/usr/bin:/bin"]},
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


def libraries(program):
    """What a dynamically linked program loads: that of the tests is not linked statically, as a released one is."""
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    return {path: path for path in re.findall(r"(/\S+) \(0x", listed)}


def main():
    """Every image of the cluster."""
    binaries, folder, job_image, *meshcert = sys.argv[1:]
    os.makedirs(folder, exist_ok=True)
    shell = {BUSYBOX: "/usr/bin/busybox", BASH: "/usr/bin/bash-static"}
    shell |= {f"/bin/{applet}": "-> busybox" for applet in APPLETS}
    tools = {f"/usr/bin/{name}": os.path.join(binaries, name) for name in ("kubeadm", "kubectl")}

    def one(name, image, files, entrypoint, user="0"):
        write(os.path.join(folder, name + ".tar"), image, files, entrypoint, user)

    one("pause", "meshcert.test/pause:1", {BUSYBOX: "/usr/bin/busybox"}, [BUSYBOX, "tail", "-f", "/dev/null"])
    one("job", job_image, shell | tools, [BASH])
    for name in ("etcd", "kube-apiserver"):
        one(name, f"meshcert.test/{name}:1", {f"/usr/bin/{name}": os.path.join(binaries, name)}, [f"/usr/bin/{name}"])
    if meshcert and os.path.exists(meshcert[0]):
        files = {"/meshcert": meshcert[0]} | libraries(meshcert[0])
        one("meshcert", "meshcert.test/meshcert:e2e", files, ["/meshcert"], "65532:65532")


if __name__ == "__main__":
    main()
