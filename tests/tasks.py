"""Items of every benchmark task."""

ITEMS = {
    "arc_challenge": [{"id": i, "question": f"the town of p{i} is", "choices": ["w", "good", "x", "y"], "gold": 1} for i in range(4)],
    "hellaswag": [{"id": i, "ctx": f"p{i}", "endings": ["good end.", "bad end.", "bad one.", "bad two."], "label": 0} for i in range(4)],
    "mmlu": [{"id": i, "subject": "s", "question": f"choose a) q b) good p{i}:", "choices": ["a", "good"], "gold": 1} for i in range(4)],
    "winogrande": [{"id": i, "context_options": ["bad was", "good was"], "continuation": f"born{i}.", "gold": 1} for i in range(4)],
    "truthfulqa_mc": [
        {
            "id": i,
            "question": f"p{i}",
            "mc1_targets": [{"text": "good", "label": 1}, {"text": "bad", "label": 0}],
            "mc2_targets": [{"text": "good", "label": 1}, {"text": "good too", "label": 1}, {"text": "bad", "label": 0}],
        }
        for i in range(4)
    ],
    "true_false": [{"id": i, "question": f"is it right? p{i}:", "choices": ["yes", "good"], "gold": 1} for i in range(4)],
    "gsm8k": [{"id": i, "question": f"p{i} had to", "answer": "good work.", "final": "good work"} for i in range(4)],
}
