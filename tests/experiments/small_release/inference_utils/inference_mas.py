def run_planner_feedback_latent_stage(questions, task_types=None):
    return questions, task_types


def main(questions, task_types):
    for _ in range(3):
        planner_to_refiner = run_planner_feedback_latent_stage(
            questions=questions,
        )
    return planner_to_refiner
