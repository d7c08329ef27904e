// Command wordcount prints the most frequent words of standard input.
package main

import (
	"bufio"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"unicode"
)

type entry struct {
	word  string
	count int
}

// count reads words and returns how often each of them occurs.
func count(r io.Reader) (map[string]int, error) {
	counts := make(map[string]int)
	scanner := bufio.NewScanner(r)
	scanner.Split(bufio.ScanWords)
	for scanner.Scan() {
		word := strings.TrimFunc(strings.ToLower(scanner.Text()), unicode.IsPunct)
		if word != "" {
			counts[word]++
		}
	}
	return counts, scanner.Err()
}

// top returns the n most frequent words; words of the same count come in alphabetical order.
func top(counts map[string]int, n int) []entry {
	entries := make([]entry, 0, len(counts))
	for word, count := range counts {
		entries = append(entries, entry{word, count})
	}
	slices.SortFunc(entries, func(a, b entry) int {
		// HOLE: higher counts first, then by word
	})
	if len(entries) > n {
		entries = entries[:n]
	}
	return entries
}

func main() {
	n := flag.Int("n", 10, "number of words to print")
	flag.Parse()
	counts, err := count(os.Stdin)
	if err != nil {
		fmt.Fprintln(os.Stderr, "wordcount:", err)
		os.Exit(1)
	}
	for _, e := range top(counts, *n) {
		fmt.Printf("%7d %s\n", e.count, e.word)
	}
}
