//! Programs in other languages, as people write them: each listens on `$HOST:$PORT` and answers `/` and `/healthz`.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A program and how to run it.
pub struct Program {
    /// Command of the manifest.
    pub command: Vec<String>,
    /// A word of its command line that no other process has.
    pub word: String,
}

fn words(command: &[&str]) -> Vec<String> {
    command.iter().map(|word| word.to_string()).collect()
}

fn succeeds(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}

/// gunicorn with Flask; none when they are not installed.
pub fn flask(folder: &Path) -> Option<Program> {
    let python = ["/usr/bin/python3", "python3"];
    let python = python.iter().find(|python| succeeds(Command::new(python).args(["-c", "import flask, gunicorn"])))?;
    let source = "from flask import Flask\nimport os\napp = Flask(__name__)\n\
                  @app.route('/', methods=['GET', 'POST'])\ndef index():\n    return 'flask ' + os.environ['HIRSEL_INSTANCE']\n\
                  @app.route('/healthz')\ndef healthz():\n    return 'well'\n";
    std::fs::write(folder.join("flaskapp.py"), source).ok()?;
    let chdir = folder.display().to_string();
    let command = [
        python,
        "-m",
        "gunicorn",
        "flaskapp:app",
        "--chdir",
        &chdir,
        "--bind",
        "${HOST}:${PORT}",
        "--threads",
        "4",
        "--keep-alive",
        "75",
        "--graceful-timeout",
        "10",
    ];
    Some(Program { command: words(&command), word: "flaskapp:app".into() })
}

/// Folders in which express may lie: what the environment says, where `.ci/run` puts it, and where distributions do.
fn express() -> Option<PathBuf> {
    let from_environment = std::env::var_os("NODE_PATH").unwrap_or_default();
    let cache = std::env::var_os("HIRSEL_CI_CACHE").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache/hirsel/ci"));
    let caches = cache.into_iter().chain(home).map(|cache| cache.join("npm/node_modules"));
    let shared = ["/usr/lib/node_modules", "/usr/local/lib/node_modules", "/usr/share/nodejs"].map(PathBuf::from);
    std::env::split_paths(&from_environment)
        .chain(caches)
        .chain(shared)
        .find(|folder| succeeds(Command::new("node").args(["-e", "require('express')"]).env("NODE_PATH", folder)))
}

/// node with express; none without either of them.
pub fn node(folder: &Path) -> Option<Program> {
    let modules = format!("NODE_PATH={}", express()?.display());
    let source = "const app = require('express')();\n\
        app.get('/healthz', (request, response) => response.send('well'));\n\
        app.use((request, response) => response.send('express ' + process.env.HIRSEL_INSTANCE));\n\
        const server = app.listen(process.env.PORT, process.env.HOST);\n\
        server.keepAliveTimeout = 75000;\n\
        process.on('SIGTERM', () => { server.close(() => process.exit(0)); server.closeIdleConnections(); });\n";
    let path = folder.join("nodeapp.js");
    std::fs::write(&path, source).ok()?;
    let path = path.display().to_string();
    Some(Program { command: words(&["env", &modules, "node", &path]), word: "nodeapp.js".into() })
}

/// A Go program; none without Go.
pub fn go(folder: &Path) -> Option<Program> {
    let source = "package main\nimport (\"context\"; \"fmt\"; \"net/http\"; \"os\"; \"os/signal\"; \"syscall\")\n\
        func main() {\n\
        http.HandleFunc(\"/\", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, \"go \", os.Getenv(\"HIRSEL_INSTANCE\")) })\n\
        s := &http.Server{Addr: os.Getenv(\"HOST\") + \":\" + os.Getenv(\"PORT\")}\n\
        ended := make(chan os.Signal, 1)\n\
        signal.Notify(ended, syscall.SIGTERM)\n\
        done := make(chan bool)\n\
        go func() { <-ended; s.Shutdown(context.Background()); close(done) }()\n\
        if err := s.ListenAndServe(); err != http.ErrServerClosed { panic(err) }\n\
        <-done\n}\n";
    let path = folder.join("goapp.go");
    std::fs::write(&path, source).ok()?;
    let program = folder.join("goapp");
    let mut build = Command::new("go");
    build.args(["build", "-o"]).arg(&program).arg(&path).current_dir(folder);
    build.env("GOFLAGS", "-mod=mod").env("GO111MODULE", "off").env("GOCACHE", folder.join("cache"));
    let command = vec![program.display().to_string()];
    succeeds(&mut build).then(|| Program { command, word: "goapp".into() })
}

impl Program {
    /// Its manifest: `replicas` instances that answer under `APP.example`.
    pub fn manifest(&self, app: &str, replicas: usize) -> String {
        let command: Vec<String> = self.command.iter().map(|word| format!("{word:?}")).collect();
        format!(
            "app = \"{app}\"\n[service.web]\ncommand = [{}]\nreplicas = {replicas}\n\
             health = {{ http = \"/healthz\", interval = \"1s\" }}\n[route.\"{app}.example\"]\nto = \"web\"\n",
            command.join(", ")
        )
    }
}
