package flyapi

import (
	"maps"
	"slices"
)

// program is what a machine runs, in the words of an image: an entrypoint that replaces the image's when it is given, and
// a command that replaces the image's own.
type program struct {
	entrypoint []string
	command    []string
	env        map[string]string
	user       string
}

// programOf returns what a configuration asks to run. With neither init nor processes that is what the image says.
func programOf(c *config) program {
	switch len(c.Processes) {
	case 0:
		return programOfStart(&c.Init)
	case 1:
		p := &c.Processes[0]
		one := p.start
		if !one.given() {
			one = c.Init
		}
		run := programOfStart(&one)
		run.env, run.user = p.Env, p.User
		return run
	}
	run := program{entrypoint: []string{"/bin/sh", "-c", severalProcesses, "processes"}, user: c.Processes[0].User}
	for i := range c.Processes {
		p := &c.Processes[i]
		one := programOfStart(&p.start)
		words := slices.Concat(one.entrypoint, one.command)
		if len(p.Env) > 0 {
			settings := []string{"env"}
			for _, name := range slices.Sorted(maps.Keys(p.Env)) {
				settings = append(settings, name+"="+p.Env[name])
			}
			words = append(settings, words...)
		}
		run.command = append(run.command, quote(words))
	}
	return run
}

func programOfStart(s *start) program {
	if len(s.Exec) > 0 {
		return program{entrypoint: s.Exec[:1], command: s.Exec[1:]}
	}
	return program{entrypoint: s.Entrypoint, command: s.Cmd}
}

// quote writes a command as a line for a shell.
func quote(words []string) string {
	line := ""
	for i, word := range words {
		if i > 0 {
			line += " "
		}
		line += "'"
		for _, c := range word {
			if c == '\'' {
				line += `'\''`
			} else {
				line += string(c)
			}
		}
		line += "'"
	}
	return line
}

// severalProcesses runs several commands, each an argument in the form of a shell's line, in one machine. It ends all of
// them when one ends without error, and otherwise when the last has ended, with that one's status. A signal to stop is
// passed on as SIGTERM, because a shell starts what runs beside it with SIGINT ignored.
const severalProcesses = `
end() { for each in $running; do kill -TERM "$each" 2>/dev/null; done; }
done=
trap 'done=0; end' USR1
trap 'done=143; end' TERM INT HUP QUIT
for line; do
	(
		trap 'kill -TERM "$c" 2>/dev/null' TERM
		trap : USR1
		eval "exec_line() { exec $line; }"
		( trap - TERM USR1; exec_line ) &
		c=$!
		wait "$c"; s=$?
		while kill -0 "$c" 2>/dev/null; do wait "$c"; s=$?; done
		[ "$s" -ne 0 ] || kill -USR1 $$
		exit "$s"
	) &
	running="$running $!"
done
status=0
for p in $running; do
	while :; do
		wait "$p"; s=$?
		kill -0 "$p" 2>/dev/null || break
	done
	[ "$s" -eq 0 ] || status=$s
done
exit "${done:-$status}"
`
