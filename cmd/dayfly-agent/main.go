// Command dayfly-agent is what runs inside a machine, and what holds the machines of the local provider.
package main

import (
	"os"

	"github.com/dayfly-run/dayfly/internal/agent/agentmain"
)

// version is set by the linker: -ldflags "-X main.version=1.2.3".
var version = "development"

func main() { os.Exit(agentmain.Main(os.Args[1:], version)) }
