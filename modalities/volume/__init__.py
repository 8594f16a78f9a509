"""3D medical volumes: CT and MRI, how they are read and stored, and their encoders."""
