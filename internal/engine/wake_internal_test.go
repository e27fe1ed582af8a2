package engine

import "testing"

func TestWatchersOfAJobAreToldAndForgotten(t *testing.T) {
	t.Parallel()
	var n notifier
	told := func(c <-chan struct{}) bool {
		select {
		case <-c:
			return true
		default:
			return false
		}
	}
	firstChanged, stopFirst := n.watch("a")
	secondChanged, stopSecond := n.watch("a")
	first, second := firstChanged(), secondChanged()
	n.notify("b")
	if told(first) || told(second) {
		t.Error("watchers of one job were told of another")
	}
	n.notify("a")
	if !told(first) || !told(second) {
		t.Error("a watcher was not told")
	}

	stopFirst()
	stopFirst()
	second = secondChanged()
	if told(second) {
		t.Error("a channel taken after a change tells of it")
	}
	if n.notify("a"); !told(second) {
		t.Error("a watcher was not told again, or not once another had left")
	}
	stopSecond()
	if len(n.watched) != 0 {
		t.Errorf("%d jobs are remembered, want none: nobody watches", len(n.watched))
	}
	n.notify("a") // costs nothing and tells nobody
}
