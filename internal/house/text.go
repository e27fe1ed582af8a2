package house

import (
	"bytes"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"
)

func textRules() []Rule {
	return []Rule{{
		Name:  "NothingIsLeftToDo",
		Why:   "a mark in the source is a plan that nobody follows: it is neither done nor known",
		Mend:  "do it, or write down where plans are kept that it is not done, and say here what holds today",
		Check: checkMarks,
	}, {
		Name:  "SourcesDoNotSayWhereTheyWereWritten",
		Why:   "paths of somebody's computer and numbers of somebody's list mean nothing to a reader, and break on the next computer",
		Mend:  "use a path relative to the repository, t.TempDir() or $HOME, and say what a number stands for in words",
		Check: checkPlaces,
	}, {
		Name:  "LinksInDocumentsResolve",
		Why:   "a link to nowhere costs every reader a minute",
		Mend:  "correct the path, which is relative to the document, or the heading's anchor",
		Check: checkLinks,
	}, {
		Name:  "ScriptsStopAtTheFirstError",
		Why:   "a shell that goes on after a failure reports success for work it has not done",
		Mend:  "begin with set -euo pipefail (set -eu where the shell is sh)",
		Check: checkScripts,
	}}
}

func checkMarks(t *Tree) []Finding {
	// The words are put together here so that this file holds none of them.
	mark := regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME|XX` + `X)\b`)
	var found []Finding
	for line := range t.lines {
		if m := mark.FindString(line.text); m != "" {
			found = append(found, Finding{Path: line.file.Path, Line: line.number, What: m})
		}
	}
	return found
}

func checkPlaces(t *Tree) []Finding {
	place := regexp.MustCompile(`(?:^|[\s"'` + "`" + `(=:\[])(/(?:work|root|home|Users)/[\w.-]+)|(?i:\b(issue ` + `#\d*))`)
	var found []Finding
	for line := range t.lines {
		for _, m := range place.FindAllStringSubmatch(line.text, -1) {
			found = append(found, Finding{Path: line.file.Path, Line: line.number, What: m[1] + m[2]})
		}
	}
	return found
}

// line is one line of text.
type line struct {
	file   *File
	number int // from 1
	text   string
}

// lines yields every line of every file.
func (t *Tree) lines(yield func(line) bool) {
	for _, f := range t.Files {
		number := 0
		for text := range bytes.Lines(f.Data) {
			number++
			if !yield(line{f, number, string(text)}) {
				return
			}
		}
	}
}

func checkLinks(t *Tree) []Finding {
	link := regexp.MustCompile(`\]\(([^)\s]+)(?:\s+"[^"]*")?\)`)
	var found []Finding
	for l := range t.prose {
		for _, m := range link.FindAllStringSubmatch(l.text, -1) {
			if what := t.brokenLink(l.file, m[1]); what != "" {
				found = append(found, Finding{Path: l.file.Path, Line: l.number, What: what})
			}
		}
	}
	return found
}

// prose yields the lines of Markdown documents that are not in a code block, without code in backquotes.
func (t *Tree) prose(yield func(line) bool) {
	code := regexp.MustCompile("`[^`]*`")
	fenced := map[*File]bool{}
	for l := range t.lines {
		if path.Ext(l.file.Path) != ".md" {
			continue
		}
		if trimmed := strings.TrimSpace(l.text); strings.HasPrefix(trimmed, "```") || strings.HasPrefix(trimmed, "~~~") {
			fenced[l.file] = !fenced[l.file]
			continue
		}
		l.text = code.ReplaceAllString(l.text, "``")
		if !fenced[l.file] && !yield(l) {
			return
		}
	}
}

// brokenLink says what is wrong with a link in a document, or "".
func (t *Tree) brokenLink(from *File, target string) string {
	if strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:") {
		return ""
	}
	file, anchor, _ := strings.Cut(target, "#")
	to := from.Path
	if file != "" {
		to = path.Join(from.Dir(), file)
		if strings.HasPrefix(file, "/") {
			to = path.Clean(file[1:])
		}
	}
	if _, err := fs.Stat(t.fsys, to); err != nil {
		return fmt.Sprintf("the link %s leads nowhere: there is no %s", target, to)
	}
	if anchor == "" || path.Ext(to) != ".md" {
		return ""
	}
	if !slices.Contains(t.anchors(to), anchor) {
		return fmt.Sprintf("the link %s leads nowhere: %s has no heading of that name", target, to)
	}
	return ""
}

// anchors returns the anchors of a document's headings, as GitHub makes them.
func (t *Tree) anchors(document string) []string {
	var anchors []string
	seen := map[string]int{}
	for l := range t.prose {
		heading := strings.TrimLeft(l.text, "#")
		if l.file.Path != document || heading == l.text || !strings.HasPrefix(heading, " ") {
			continue
		}
		// The text in backquotes counts in a heading, so the heading is taken from the file.
		raw := strings.Split(string(l.file.Data), "\n")[l.number-1]
		anchor := slug(strings.TrimLeft(raw, "# "))
		if n := seen[anchor]; n > 0 {
			anchors = append(anchors, fmt.Sprintf("%s-%d", anchor, n))
		} else {
			anchors = append(anchors, anchor)
		}
		seen[anchor]++
	}
	return anchors
}

func slug(heading string) string {
	drop := regexp.MustCompile(`[^\p{L}\p{N}\p{M} _-]`)
	kept := drop.ReplaceAllString(strings.ToLower(strings.TrimSpace(heading)), "")
	return strings.ReplaceAll(kept, " ", "-")
}

func checkScripts(t *Tree) []Finding {
	careful := regexp.MustCompile(`(?m)^set -(euo pipefail|eu)$`)
	var found []Finding
	for _, f := range t.Files {
		first, _, _ := strings.Cut(string(f.Data), "\n")
		if !strings.HasPrefix(first, "#!") || !strings.HasSuffix(first, "sh") {
			continue
		}
		m := careful.Find(f.Data)
		if m == nil || (strings.HasSuffix(first, "bash") && !bytes.Contains(m, []byte("pipefail"))) {
			found = append(found, Finding{Path: f.Path, Line: 1, What: "the script goes on after an error"})
		}
	}
	return found
}
