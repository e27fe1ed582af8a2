package app_test

import (
	"os"
	"testing"

	"github.com/dayfly-run/dayfly/internal/agent/agentmain"
)

// TestMain lets the test binary be the agent, which the supervisors of machines run as "dayfly agent".
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "agent" {
		os.Exit(agentmain.Main(os.Args[2:], "test"))
	}
	os.Exit(m.Run())
}
