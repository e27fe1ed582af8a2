package process_test

import "testing"

func TestOfSeveralGroupsEachHasAnEqualShareOfWhatThereIs(t *testing.T) {
	t.Parallel()
	host := newHost(t, false)
	able := host.Abilities()
	all, third := host.Share(1), host.Share(3)
	if able.Memory && (all.MemoryMB < 64 || third.MemoryMB != all.MemoryMB/3) || !able.Memory && all.MemoryMB != 0 {
		t.Errorf("the share of all memory and of a third, where a limit holds (%v): got %d and %d MiB", able.Memory, all.MemoryMB, third.MemoryMB)
	}
	if able.Processes && (all.Processes < 64 || third.Processes != all.Processes/3) || !able.Processes && all.Processes != 0 {
		t.Errorf("the share of all processes and of a third, where a limit holds (%v): got %d and %d", able.Processes, all.Processes, third.Processes)
	}
	if all.CPUs != 0 {
		t.Errorf("a share of the processors: got %v, want none, as they are shared as needed", all.CPUs)
	}
	if size := newHost(t, true).Share(2); size.MemoryMB != 0 || size.Processes != 0 {
		t.Errorf("a share where no limit holds: got %+v, want none", size)
	}
}
