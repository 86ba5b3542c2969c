"""Synthetic patients with exact ground truth: abdominal CT, brain MRI and chest radiographs.

They are easy to recognise and hard to read: findings are drawn in low contrast under noise, so that one slice seen
through a small vision tower is not enough and a network that sees the volume is. Everything is a function of the seed
and the patient's number; nothing is downloaded.
"""
