"""The `quire` command: one file per subcommand, each thin: parse, call a public function, print."""
