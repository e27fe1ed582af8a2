// Command dayfly runs any job on a machine that lives only as long as the job.
package main

import (
	"os"

	"github.com/dayfly-run/dayfly/internal/cli"
)

// version is set by the release build.
var version = "dev"

func main() { os.Exit(cli.Main(version)) }
