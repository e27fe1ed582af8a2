package agent_test

import (
	"testing"

	"github.com/dayfly-run/dayfly/internal/agent"
)

func TestAStartOfTheComputerHasOneName(t *testing.T) {
	t.Parallel()
	first := agent.BootName()
	if len(first) < 36 { // a UUID
		t.Errorf("the start of this computer is called %q, want a name that no other has", first)
	}
	if again := agent.BootName(); again != first {
		t.Errorf("it is called %q and then %q, want one name", first, again)
	}
}
