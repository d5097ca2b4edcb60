"""An index of packages for pip and npm on 127.0.0.1:8400, made up in memory. Prints a line when it listens."""

import base64, hashlib, http.server, io, json, tarfile, zipfile

HOST = ("127.0.0.1", 8400)
ADDRESS = "http://%s:%d" % HOST
files = {}


def wheel(name, modules, needs=(), programs=""):
    """Adds a wheel, version 1."""
    package = name.replace("-", "_")
    info = package + "-1.dist-info/"
    parts = dict(modules)
    parts[info + "METADATA"] = "Metadata-Version: 2.1\nName: %s\nVersion: 1\n" % name + "".join(
        "Requires-Dist: %s\n" % need for need in needs
    )
    parts[info + "WHEEL"] = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    if programs:
        parts[info + "entry_points.txt"] = "[console_scripts]\n" + programs
    parts[info + "RECORD"] = "".join("%s,,\n" % path for path in [*parts, info + "RECORD"])
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for path, text in parts.items():
            archive.writestr(path, text)
    file = package + "-1-py3-none-any.whl"
    offer(name, file, out.getvalue())
    return file, out.getvalue()


def offer(name, file, content):
    files["/files/" + file] = content
    files["/simple/%s/" % name] = b'<a href="/files/%s">%s</a>' % (file.encode(), file.encode())


def tarball(folder, parts):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for path, text in parts.items():
            member = tarfile.TarInfo("%s/%s" % (folder, path))
            member.size, member.mode = len(text), 0o755
            archive.addfile(member, io.BytesIO(text.encode()))
    return out.getvalue()


def npm(name, parts, **manifest):
    """Adds a package for npm, version 1.0.0."""
    manifest = {"name": name, "version": "1.0.0", **manifest}
    content = tarball("package", {"package.json": json.dumps(manifest), **parts})
    digest = base64.b64encode(hashlib.sha512(content).digest()).decode()
    dist = {"tarball": "%s/files/%s.tgz" % (ADDRESS, name), "integrity": "sha512-" + digest}
    scripts = {"hasInstallScript": True} if "scripts" in manifest else {}
    version = {**manifest, **scripts, "dist": dist}
    files["/files/%s.tgz" % name] = content
    files["/npm/" + name] = json.dumps(
        {"name": name, "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": version}}
    ).encode()


wheel("part-of-work", {"part_of_work.py": 'word = "its part"\n'})
wheel(
    "wheel-of-work",
    {"wheel_of_work.py": 'import part_of_work\ndef main():\n    print("a wheel and", part_of_work.word)\n'},
    needs=["part-of-work"],
    programs="wheel-of-work = wheel_of_work:main\n",
)
# Its own builder (PEP 517), which pip runs in an environment made for that.
file, content = wheel("source-of-work", {"source_of_work.py": 'word = "built"\n'})
builder = '''import os
def build_wheel(folder, *_):
    with open(os.path.join(folder, "%s"), "wb") as out:
        out.write(%r)
    return "%s"
''' % (file, content, file)
project = '[build-system]\nrequires = []\nbuild-backend = "builder"\nbackend-path = ["."]\n'
parts = {"pyproject.toml": project, "builder.py": builder}
offer("source-of-work", "source-of-work-1.tar.gz", tarball("source-of-work-1", parts))
# A builder that is a package with a program, and what is built with it: a library in C, loaded to see that it works.
wheel(
    "builder-of-work",
    {
        "builder_of_work.py": '''import ctypes, os, subprocess, sys, zipfile
FILE, INFO = "compiled_of_work-1-py3-none-any.whl", "compiled_of_work-1.dist-info/"
def build_wheel(folder, *_):
    subprocess.run(["builder-of-work", "part.c", "part.so"], check=True)
    assert ctypes.CDLL(os.path.abspath("part.so")).answer() == 42
    with zipfile.ZipFile(os.path.join(folder, FILE), "w", strict_timestamps=False) as out:
        out.write("compiled_of_work.py")
        out.write("part.so", "libcompiled_of_work.so")
        out.writestr(INFO + "METADATA", "Metadata-Version: 2.1\\nName: compiled-of-work\\nVersion: 1\\n")
        out.writestr(INFO + "WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        out.writestr(INFO + "RECORD", "".join("%s,,\\n" % name for name in [*out.namelist(), INFO + "RECORD"]))
    return FILE
def main():
    subprocess.run(["cc", "-shared", "-fPIC", "-o", sys.argv[2], sys.argv[1]], check=True)
'''
    },
    programs="builder-of-work = builder_of_work:main\n",
)
loads = '''import ctypes, os
answer = ctypes.CDLL(os.path.join(os.path.dirname(__file__), "libcompiled_of_work.so")).answer
'''
parts = {
    "pyproject.toml": '[build-system]\nrequires = ["builder-of-work"]\nbuild-backend = "builder_of_work"\n',
    "part.c": "int answer(void) { return 42; }\n",
    "compiled_of_work.py": loads,
    ".pre-commit-config.yaml": "repos: []\n",
    ".vscode/settings.json": "{}\n",
    ".env.example": "KEY=\n",
}
offer("compiled-of-work", "compiled-of-work-1.tar.gz", tarball("compiled-of-work-1", parts))
npm("npm-part-of-work", {"index.js": 'module.exports = "its part";\n'})
npm(
    "tool-of-work",
    {
        "tool.js": '#!/usr/bin/env node\nconsole.log("a tool and " + require("npm-part-of-work"));\n',
        ".vscode/settings.json": "{}\n",
        ".devcontainer/devcontainer.json": "{}\n",
        ".husky/pre-commit": "npm test\n",
        ".env.test": "KEY=\n",
        ".mcp.json": "{}\n",
        "install.js": 'require("fs").writeFileSync("installed", "");\n',
    },
    bin={"tool-of-work": "tool.js"},
    scripts={"postinstall": "node install.js"},
    dependencies={"npm-part-of-work": "^1.0.0"},
)


class Index(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        content = files.get(self.path.split("?")[0])
        self.send_response(200 if content is not None else 404)
        kind = "application/json" if self.path.startswith("/npm/") else "text/html"
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        self.wfile.write(content or b"")

    def log_message(self, *_):
        pass


with http.server.ThreadingHTTPServer(HOST, Index) as server:
    print("listening", flush=True)
    server.serve_forever()
